"""The flags of how a run is kept safe; none of them changes its numbers."""

import dataclasses

from absl import flags

_CHECKPOINT_EVERY = flags.DEFINE_integer(
  'checkpoint_every',
  10,
  'Rounds between checkpoints, from which the same command goes on; the last round has one.',
  lower_bound=1,
)
_KEEP_CHECKPOINTS = flags.DEFINE_integer(
  'keep_checkpoints',
  2,
  'How many checkpoints to keep, in case the newest is damaged.',
  lower_bound=1,
)
_CLIENT_MEMORY_CAP_MB = flags.DEFINE_integer(
  'client_memory_cap_mb', 64, 'RAM, in 2^20 bytes, for client memory on disk.', lower_bound=0
)


@dataclasses.dataclass(frozen=True)
class Saving:
  """How a run is kept safe; the fields are the flags of the same names."""

  checkpoint_every: int = 10
  keep_checkpoints: int = 2
  client_memory_cap_mb: int = 64


def from_flags() -> Saving:
  return Saving(_CHECKPOINT_EVERY.value, _KEEP_CHECKPOINTS.value, _CLIENT_MEMORY_CAP_MB.value)
