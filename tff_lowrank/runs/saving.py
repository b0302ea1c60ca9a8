"""Settings of checkpoints and saved models; they do not change the run's numbers."""

import dataclasses

from tff_lowrank import settings


@dataclasses.dataclass(frozen=True)
class Saving(settings.Settings):
  """How often a run is saved, and what is kept."""

  checkpoint_every: int = settings.field(
    10,
    'Rounds between checkpoints, from which the same command resumes; the last round has one.',
    at_least=1,
    group='saving',
  )
  keep_checkpoints: int = settings.field(
    2,
    'Number of checkpoints to keep, in case the newest is damaged.',
    at_least=1,
    group='saving',
  )
  keep_best: bool = settings.field(
    False, 'Also save the model of the best evaluation, as model_best.keras.', group='saving'
  )
  client_memory_cap_mb: int = settings.field(
    64, 'RAM cache, in 2^20 bytes, for client state on disk.', at_least=0, group='saving'
  )
