from absl import flags
import pytest

from tests.cli import binaries
from tff_lowrank.cli import saving_flags
from tff_lowrank.runs import saving


def chosen(*arguments):
  with binaries.no_flags_set():
    flags.FLAGS(['train', '--output_dir=x', *arguments])
    return saving_flags.chosen()


def test_defaults_are_those_of_the_library():
  assert chosen() == saving.Saving()


def test_all_of_it_is_a_flag():
  found = chosen('--checkpoint_every=3', '--keep_checkpoints=4', '--keep_best',
                 '--client_memory_cap_mb=0')  # fmt: skip
  assert found == saving.Saving(
    checkpoint_every=3, keep_checkpoints=4, keep_best=True, client_memory_cap_mb=0
  )


@pytest.mark.parametrize('argument', ['--checkpoint_every=0', '--client_memory_cap_mb=-1'])
def test_bounds(argument):
  with pytest.raises(flags.IllegalFlagValueError, match=argument):
    chosen(argument)
