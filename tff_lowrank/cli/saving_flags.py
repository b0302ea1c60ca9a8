"""The flags of checkpoints and saved models."""

from absl import flags

from tff_lowrank import settings
from tff_lowrank.cli import help as help_lib
from tff_lowrank.cli import setting_flags
from tff_lowrank.runs import saving

for _setting in settings.of(saving.Saving).values():
  setting_flags.define(_setting)
help_lib.add('Saving', settings.of(saving.Saving))


def chosen() -> saving.Saving:
  """The settings from the flags."""
  return saving.Saving(**{name: flags.FLAGS[name].value for name in settings.of(saving.Saving)})
