"""The --seeds flag of commands that train with several seeds."""

from absl import app
from absl import flags

from tff_lowrank.cli import run_flags

_SEEDS = flags.DEFINE_list(
  'seeds', '1', 'Seeds, separated by commas; each method or trial is trained once with each seed.'
)
# Elsewhere it is `--seed`.
UNUSED = ('seed',)


def chosen() -> list[int]:
  """The seeds; raises UsageError if they are invalid, or --seed is given instead."""
  if run_flags.given('seed'):
    raise app.UsageError('--seed has no effect here; use --seeds.')
  texts = _SEEDS.value
  if not texts or not all(text.isdecimal() for text in texts):
    raise app.UsageError(
      f'--seeds: expected whole numbers separated by commas, found {",".join(texts)!r}.'
    )
  seeds = [int(text) for text in texts]
  if len(set(seeds)) < len(seeds):
    raise app.UsageError(f'--seeds: expected different seeds, found {",".join(texts)!r}.')
  return seeds
