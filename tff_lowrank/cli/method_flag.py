"""The --method flag of commands that train with one method."""

from absl import flags

from tff_lowrank import methods
from tff_lowrank.cli import run_flags

_METHOD = flags.DEFINE_string(
  'method',
  methods.BASELINE.name,
  f'Training method: {", ".join(methods.METHODS)}; or package.module:RECORD of a method.',
)


def chosen() -> str:
  """The method; raises UsageError if a flag of other methods is given."""
  run_flags.check_method_flags([_METHOD.value])
  return _METHOD.value
