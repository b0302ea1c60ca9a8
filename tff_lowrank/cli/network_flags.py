"""The flags of the simulated network."""

from collections.abc import Sequence

from absl import app
from absl import flags

from tff_lowrank.cli import float_flags
from tff_lowrank.cli import help as help_lib
from tff_lowrank.simulation import network

_UPLINK_MBPS = flags.DEFINE_list(
  'uplink_mbps',
  '3',
  'Uplink bandwidth of each client in 10^6 bits per second, for the simulated time.',
)
_DOWNLINK_MBPS = flags.DEFINE_list(
  'downlink_mbps', '9', 'Downlink bandwidth of each client, likewise.'
)
_LATENCY_MS = flags.DEFINE_list(
  'latency_ms', '0', 'Latency of each message in milliseconds, one way.'
)

help_lib.add('Network', ['uplink_mbps', 'downlink_mbps', 'latency_ms'])


def _parse(flag: flags.FlagHolder[list[str]]) -> list[float]:
  try:
    return [float_flags.parse(flag.name, text) for text in flag.value]
  except ValueError as e:
    raise app.UsageError(
      f'--{flag.name}: expected numbers separated by commas, found {",".join(flag.value)!r}: {e}'
    ) from e


def _as_long_as_the_longest(columns: Sequence[list[float]]) -> list[list[float]]:
  length = max(map(len, columns))
  if not all(len(column) in (1, length) for column in columns):
    raise app.UsageError(
      '--uplink_mbps, --downlink_mbps and --latency_ms: expected one value, or the same number of '
      f'values for each, found {", ".join(str(len(column)) for column in columns)}.'
    )
  return [column * (length // len(column)) for column in columns]


def chosen() -> list[network.Network]:
  """The networks, one for each value of the flags; a flag with one value has it for all networks.

  Raises UsageError if values are missing, or the numbers of values differ.
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
  """The network; raises UsageError if the flags describe several."""
  networks = chosen()
  if len(networks) > 1:
    raise app.UsageError(
      f'--uplink_mbps, --downlink_mbps and --latency_ms: expected one network, found '
      f'{len(networks)}; only `tff-lowrank replay` accepts several.'
    )
  return networks[0]
