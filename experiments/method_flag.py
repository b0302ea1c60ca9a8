"""The flag of binaries that train with one method."""

from absl import flags

from experiments import flag_groups
from experiments import specs

_METHOD = flags.DEFINE_enum('method', 'fed_avg', list(specs.METHOD_FLAGS), 'What to train with.')


def chosen() -> str:
  """The method; raises UsageError if a flag is given that belongs to others."""
  flag_groups.check_method_flags([_METHOD.value])
  return _METHOD.value
