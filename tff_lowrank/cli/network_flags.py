"""The flags of the network on which the time of messages is simulated."""

from collections.abc import Sequence

from absl import app
from absl import flags

from tff_lowrank.cli import float_flags
from tff_lowrank.cli import help as help_lib
from tff_lowrank.simulation import network

_UPLINK_MBPS = flags.DEFINE_list(
  'uplink_mbps', '3', "Each client's 10^6 bits a second to the server, for the simulated time."
)
_DOWNLINK_MBPS = flags.DEFINE_list('downlink_mbps', '9', 'The same from the server to each client.')
_LATENCY_MS = flags.DEFINE_list(
  'latency_ms', '0', 'Milliseconds that each message takes besides, one way.'
)

help_lib.add('Network', ['uplink_mbps', 'downlink_mbps', 'latency_ms'])


def _parse(flag: flags.FlagHolder[list[str]]) -> list[float]:
  try:
    return [float_flags.parse(flag.name, text) for text in flag.value]
  except ValueError as e:
    raise app.UsageError(
      f'--{flag.name}: expected numbers by commas, found {",".join(flag.value)!r}: {e}'
    ) from e


def _as_long_as_the_longest(columns: Sequence[list[float]]) -> list[list[float]]:
  length = max(map(len, columns))
  if not all(len(column) in (1, length) for column in columns):
    raise app.UsageError(
      '--uplink_mbps, --downlink_mbps and --latency_ms: expected one value or equally many of '
      f'each, found {", ".join(str(len(column)) for column in columns)}.'
    )
  return [column * (length // len(column)) for column in columns]


def chosen() -> list[network.Network]:
  """The networks, one for each value of the flags; where one has a single value, it is for all.

  Raises UsageError if the values are none, or not as many as each other.
  """
  parsed = [_parse(flag) for flag in (_UPLINK_MBPS, _DOWNLINK_MBPS, _LATENCY_MS)]
  if not all(parsed):
    raise app.UsageError('--uplink_mbps, --downlink_mbps and --latency_ms need a value each.')
  try:
    return [
      network.Network(downlink_mbps=down, uplink_mbps=up, latency_seconds=latency / 1000)
      for up, down, latency in zip(*_as_long_as_the_longest(parsed), strict=True)
    ]
  except ValueError as e:
    raise app.UsageError(f'--uplink_mbps, --downlink_mbps, --latency_ms: {e}') from e


def chosen_one() -> network.Network:
  """The network; raises UsageError if the flags have values for several."""
  networks = chosen()
  if len(networks) > 1:
    raise app.UsageError(
      f'--uplink_mbps, --downlink_mbps and --latency_ms: expected one network, found '
      f'{len(networks)}; replay takes several.'
    )
  return networks[0]
