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


def test_table_two_of_apf_by_hand():
  # Per-round seconds, without and with APF. LeNet-5: 62,006 floats each way take 0.88 s (0.22 s
  # down, 0.66 s up), so 1.02 s leave 0.14 s to compute.
  size = 4 * 62_006
  link = network.Network()
  assert link.transfer_seconds(size, size) == pytest.approx(0.882, abs=0.001)
  assert link.client_seconds(size, size, 0.138) == pytest.approx(1.02, abs=0.001)
  # ResNet-18 with 16 % less traffic each way and APF's own 1.278 s: 133.5 + 1.3 s.
  size = 4 * 11_173_962
  less = round(0.84 * size)
  assert link.client_seconds(less, less, 1.278) == pytest.approx(134.7, abs=0.1)


def test_slowest_client_is_slow_in_all_together():
  link = network.Network(downlink_mbps=8, uplink_mbps=8)
  # 1 s of transfer and 3 s of work; 2 s and 1.5 s; and the server's half second.
  clients = [(500_000, 500_000, 3.0), (1_000_000, 1_000_000, 1.5), (1_000_000, 1_000_000)]
  assert link.round_seconds(clients) == 4
  assert link.round_seconds(clients, server_seconds=0.5) == 4.5


def test_refuses_bad_settings():
  with pytest.raises(ValueError, match='`uplink_mbps` must be above 0'):
    network.Network(uplink_mbps=0)
  with pytest.raises(ValueError, match='`latency_seconds` must be at least 0'):
    network.Network(latency_seconds=-1)
  with pytest.raises(ValueError, match='`compute_seconds` must be at least 0'):
    network.Network().client_seconds(1, 1, -1.0)
