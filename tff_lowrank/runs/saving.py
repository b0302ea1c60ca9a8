"""How a run is kept safe; nothing of it changes the run's numbers."""

import dataclasses

from tff_lowrank import settings


@dataclasses.dataclass(frozen=True)
class Saving(settings.Settings):
  """How often, and how much."""

  checkpoint_every: int = settings.field(
    10,
    'Rounds between checkpoints, from which the same command goes on; the last round has one.',
    at_least=1,
    group='saving',
  )
  keep_checkpoints: int = settings.field(
    2,
    'How many checkpoints to keep, in case the newest is damaged.',
    at_least=1,
    group='saving',
  )
  keep_best: bool = settings.field(
    False, 'Also keep the model of the best evaluation, as model_best.keras.', group='saving'
  )
  client_memory_cap_mb: int = settings.field(
    64, 'RAM, in 2^20 bytes, for client memory on disk.', at_least=0, group='saving'
  )
