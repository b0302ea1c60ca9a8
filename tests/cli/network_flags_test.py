from absl import app
from absl import flags
import pytest

from tests.cli import binaries
from tff_lowrank.cli import network_flags
from tff_lowrank.simulation import network


def parsed(choose, *arguments):
  with binaries.no_flags_set():
    flags.FLAGS(['replay', '--output_dir=x', *arguments])
    return choose()


def test_the_default_network():
  expected = network.Network(downlink_mbps=9, uplink_mbps=3, latency_seconds=0)
  assert parsed(network_flags.chosen_one) == expected
  assert parsed(network_flags.chosen) == [expected]


def test_a_single_value_is_for_all_networks():
  found = parsed(network_flags.chosen, '--uplink_mbps=1,2', '--latency_ms=500,0')
  assert found == [
    network.Network(downlink_mbps=9, uplink_mbps=1, latency_seconds=0.5),
    network.Network(downlink_mbps=9, uplink_mbps=2, latency_seconds=0),
  ]


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--uplink_mbps=1,x'], "--uplink_mbps: expected numbers separated by commas, found '1,x'"),
    (['--uplink_mbps=0'], '`uplink_mbps` must be above 0, found 0'),
    (['--latency_ms=-1'], '`latency_seconds` must be at least 0'),
    (['--uplink_mbps=1,2', '--downlink_mbps=1,2,3'], 'number of values for each, found 2, 3, 1'),
    (['--uplink_mbps='], 'need a value each'),
  ],
)
def test_refuses(arguments, message):
  with pytest.raises(app.UsageError, match=message):
    parsed(network_flags.chosen, *arguments)


def test_one_network_where_one_is_asked_for():
  with pytest.raises(
    app.UsageError, match='expected one network, found 2; only `tff-lowrank replay` accepts several'
  ):
    parsed(network_flags.chosen_one, '--downlink_mbps=1,2')
