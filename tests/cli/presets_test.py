import contextlib
import math
import pathlib
import shlex

from absl import flags
import pandas as pd
import pytest

from tests.cli import binaries
from tff_lowrank import tasks
from tff_lowrank.cli import compare
from tff_lowrank.cli import gradient_space as gradient_space  # Its flags.
from tff_lowrank.cli import run_flags

FOLDER = pathlib.Path(__file__).resolve().parents[2] / 'experiments' / 'presets'
PRESETS = sorted(FOLDER.glob('*.flags'))


@contextlib.contextmanager
def parsed(preset):
  """The flags are those of the preset, with the files that it names."""
  with binaries.no_flags_set():
    flags.FLAGS(['', f'--flagfile={preset}', '--output_dir=x'])
    yield


@pytest.mark.parametrize('preset', PRESETS, ids=lambda path: path.stem)
def test_preset_parses_and_makes_specs(preset):
  with parsed(preset):
    text = preset.read_text()
    assert text.startswith('#'), 'a preset says what it is'
    given = [line.split('=')[0].lstrip('-') for line in shlex.split(text, comments=True)]
    assert len(set(given)) == len(given)
    if flags.FLAGS['methods'].present:
      for label in run_flags.split_at_commas(flags.FLAGS.methods):
        method, overrides = compare.parse_method(label)
        run_flags.run_spec(method, overrides)
    else:
      run_flags.run_spec(flags.FLAGS.method)


def test_there_are_presets():
  assert PRESETS


# The other presets run two rounds in the slow suite.
QUICK = ('adaptive_stackoverflow_tags', 'gradient_space_federated', 'mnist_parity')


def binary_and_data(preset):
  """The binary that a preset is for, its task and its partition, if it has any."""
  with parsed(preset):
    if preset.stem.startswith('gradient_space'):
      is_central = flags.FLAGS.setting == 'central'
      return (
        'gradient_space',
        flags.FLAGS.task,
        None if is_central else flags.FLAGS.partition or 'iid',
      )
    binary = 'compare' if flags.FLAGS['methods'].present else 'train'
    task = flags.FLAGS.task
    return binary, task, flags.FLAGS.partition or tasks.default_partition(task)


@pytest.mark.parametrize(
  'preset',
  [pytest.param(p, marks=[] if p.stem in QUICK else pytest.mark.slow, id=p.stem) for p in PRESETS],
)
def test_preset_runs_two_rounds(preset, tmp_path):
  binary, task, partition = binary_and_data(preset)
  smaller = ['--rounds=2']
  if partition is not None:
    # Five of few classes hold all ten; synthetic users are fewer.
    num_clients = 2 if partition == 'natural' else 5
    smaller += ['--clients_per_round=2', f'--num_clients={num_clients}']
  if task != 'digits':
    smaller.append('--data_dir=synthetic')
  if binary == 'compare':
    smaller.append('--seeds=1')
  binaries.run(binary, f'--flagfile={preset}', *smaller, f'--output_dir={tmp_path}')
  if binary == 'gradient_space':
    assert pd.read_csv(tmp_path / 'components.csv')['round'].max() == 2
    return
  runs = [tmp_path]
  if binary == 'compare':
    table = pd.read_csv(tmp_path / 'table.csv')
    assert table['final_accuracy'].between(0, 1).all() and (table['total_bytes'] > 0).all()
    runs = [tmp_path / f'{method}-seed1' for method in table['method']]
  for run in runs:
    metrics = pd.read_csv(run / 'metrics.csv')
    assert len(metrics) == 2 and metrics['eval_loss'].notna().iloc[-1]


def test_settings_of_adaptive_federated_optimization():
  """The paper's powers of ten, to three digits."""
  rates = {}
  for preset in PRESETS:
    if preset.stem.startswith('adaptive_'):
      text = preset.read_text()
      (methods,) = (line for line in text.splitlines() if line.startswith('--methods='))
      for label in run_flags.split_at_commas(methods.removeprefix('--methods=')):
        _, settings = compare.parse_method(label)
        numbers = [settings['client_learning_rate'], settings.get('server_learning_rate', 1.0)]
        numbers.append(settings.get('server_epsilon'))
        rates.setdefault(preset.stem.removeprefix('adaptive_'), []).append(
          [None if n is None else round(2 * math.log10(n)) / 2 for n in numbers]
        )
  assert rates == {
    'emnist': [[-1, 0, None], [-1.5, -2.5, -4]],
    'cifar100': [[-1, 0.5, None], [-1.5, 0, -1]],
    'shakespeare': [[0, 0, None], [0, -2, -3]],
    'stackoverflow_nwp': [[-0.5, 0, None], [-0.5, -2, -5]],
    'stackoverflow_tags': [[2, 0, None], [2, -0.5, -5]],
  }
