"""The flag of binaries that train with one method."""

from absl import flags

from tff_lowrank import methods
from tff_lowrank.cli import run_flags

_METHOD = flags.DEFINE_string(
  'method',
  methods.BASELINE.name,
  f'What to train with: {", ".join(methods.METHODS)}; or package.module:RECORD of a method.',
)


def chosen() -> str:
  """The method; raises UsageError if a flag is given that belongs to others."""
  run_flags.check_method_flags([_METHOD.value])
  return _METHOD.value
