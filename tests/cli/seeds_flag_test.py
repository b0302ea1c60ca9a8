from absl import app
from absl import flags
import pytest

from tests.cli import binaries
from tff_lowrank.cli import seeds_flag


def chosen(*arguments):
  with binaries.no_flags_set():
    flags.FLAGS(['compare', '--output_dir=x', *arguments])
    return seeds_flag.chosen()


def test_seeds_by_commas():
  assert chosen() == [1]
  assert chosen('--seeds=3,1,20') == [3, 1, 20]


@pytest.mark.parametrize(
  'argument, message',
  [
    ('--seeds=', "expected whole numbers separated by commas, found ''"),
    ('--seeds=1,-2', "expected whole numbers separated by commas, found '1,-2'"),
    ('--seeds=1,2.5', "expected whole numbers separated by commas, found '1,2.5'"),
    ('--seeds=1,01', "expected different seeds, found '1,01'"),
    ('--seed=1', '--seed has no effect here; use --seeds'),
  ],
)
def test_refuses(argument, message):
  with pytest.raises(app.UsageError, match=message):
    chosen(argument)
