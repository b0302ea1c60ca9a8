import pytest

from tff_lowrank.simulation import network


def test_resnet_of_apf_by_hand():
  # 11,173,962 floats each way at 9 and 3 Mbps: 39.73 s + 119.19 s.
  size = 4 * 11_173_962
  seconds = network.Network().transfer_seconds(size, size)
  assert seconds == pytest.approx(158.9, abs=0.05)


def test_slowest_client_counts_and_latency_is_paid_twice():
  slow = network.Network(downlink_mbps=8, uplink_mbps=1, latency_seconds=0.5)
  assert slow.round_seconds([(1_000_000, 0), (0, 1_000_000)]) == 8 + 1
  assert slow.round_seconds([]) == 0


def test_refuses_bad_settings():
  with pytest.raises(ValueError, match='`uplink_mbps` must be above 0'):
    network.Network(uplink_mbps=0)
  with pytest.raises(ValueError, match='`latency_seconds` must be at least 0'):
    network.Network(latency_seconds=-1)
