"""What holds for all methods, and that one more is one file."""

import collections
import pathlib
import sys
import textwrap

from absl import flags
import pandas as pd
import pytest

from tests.cli import binaries
from tff_lowrank import methods
from tff_lowrank import settings
from tff_lowrank.methods import registry

RECORD = """
  import dataclasses
  from tff_lowrank import learning, settings
  from tff_lowrank.methods import method

  @dataclasses.dataclass(frozen=True)
  class HalfSettings(settings.Settings):
    {name}_share: float = settings.field(0.5, 'Of the update.', at_least=0, at_most=1)

  def _check(choice):
    if choice.client_optimizer == 'adam':
      raise ValueError('halves do not go with adam.')

  def _build(parts):
    import tensorflow_federated as tff
    share = parts.settings.{name}_share
    optimizer = tff.learning.optimizers.build_sgdm(share)
    return learning.build_compressed_fed_avg(**parts.coded | dict(server_optimizer_fn=optimizer))

  METHOD = method.Method(
    name='{name}', about='Takes half a step.', source='This test', build=_build,
    settings=HalfSettings, check=_check,
  )
"""
FAST = ('--task=digits', '--num_clients=4', '--clients_per_round=2', '--rounds=2')


def test_all_methods_of_the_package_are_found():
  files = pathlib.Path(methods.__file__).parent.glob('*.py')
  assert set(methods.METHODS) == {f.stem for f in files} - {'__init__', 'method', 'registry'}
  assert next(iter(methods.METHODS)) == methods.BASELINE.name
  for name, record in methods.METHODS.items():
    assert record.name == name == methods.find(name).name
    assert record.about.endswith('.') and record.source


def test_a_setting_means_the_same_in_all_methods_that_have_it():
  found = collections.defaultdict(set)
  for record in methods.METHODS.values():
    for name, setting in settings.of(record.settings).items():
      found[name].add(setting)
      assert record.name in methods.owners(name)
  assert all(len(meanings) == 1 for meanings in found.values())


def test_every_method_has_a_test_file():
  for name in methods.METHODS:
    assert (pathlib.Path(__file__).parent / f'{name}_test.py').exists(), name


@pytest.mark.parametrize(
  'name, message',
  [
    ('nothing', "method must be one of fed_avg, .*, or package.module:RECORD, found 'nothing'"),
    ('tff_lowrank.codecs:TopK', 'must be a methods.Method, found'),
    ('no_such_module:X', "There is no module 'no_such_module'"),
  ],
)
def test_refuses_what_is_no_method(name, message):
  with pytest.raises(ValueError, match=message):
    methods.find(name)


def test_a_file_must_be_called_as_its_method(tmp_path, monkeypatch):
  (tmp_path / 'quarter.py').write_text(textwrap.dedent(RECORD.format(name='half')))
  monkeypatch.setattr(methods, '__path__', [str(tmp_path)])
  with pytest.raises(ValueError, match="method 'half' must have the same name, found quarter"):
    registry.found()


def test_one_file_makes_a_method(tmp_path, monkeypatch):
  (tmp_path / 'half_step.py').write_text(textwrap.dedent(RECORD.format(name='half_step')))
  monkeypatch.setattr(methods, '__path__', [*methods.__path__, str(tmp_path)])
  assert registry.found()['half_step'].settings().half_step_share == 0.5
  del sys.modules['tff_lowrank.methods.half_step']


def test_a_method_of_the_user_s_own_in_all_binaries(tmp_path, monkeypatch, capsys):
  (tmp_path / 'own_methods.py').write_text(textwrap.dedent(RECORD.format(name='own_half')))
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  named = 'own_methods:METHOD'
  run = tmp_path / 'run'
  flag_file = tmp_path / 'own.flags'
  flag_file.write_text(f'--method={named}\n--own_half_share=0.25\n')
  binaries.run('train', *FAST, f'--flagfile={flag_file}', f'--output_dir={run}')
  again = tmp_path / 'again'
  binaries.run('train', *FAST, '--server_learning_rate=0.25', f'--output_dir={again}')
  columns = ['train_loss', 'eval_accuracy', 'uplink_bytes']
  mine, plain = (pd.read_csv(folder / 'metrics.csv')[columns] for folder in (run, again))
  pd.testing.assert_frame_equal(mine, plain)
  record = pd.read_json(run / 'run.json', typ='series')
  assert record['flags']['own_half_share'] == 0.25 and record['flags']['method'] == named
  assert record['sources']['method']['file'].endswith('own_methods.py')
  assert len(record['sources']['method']['sha256']) == 64

  compared = tmp_path / 'compared'
  binaries.run('compare', *FAST, f'--methods=fed_avg,{named}:own_half_share=0.5',
               f'--output_dir={compared}')  # fmt: skip
  table = pd.read_csv(compared / 'table.csv')
  assert table['method'].tolist() == ['fed_avg', f'{named}:own_half_share=0.5']
  binaries.run('tune', *FAST, f'--method={named}', '--trials=1', f'--output_dir={tmp_path / "t"}',
               '--search=own_half_share=uniform:0:1')  # fmt: skip
  assert 'own_half_share' in pd.read_csv(tmp_path / 't' / 'trials.csv')

  arguments = (*FAST, f'--method={named}', f'--output_dir={tmp_path / "x"}')
  capsys.readouterr()
  for more, sentence in (
    ('--own_half_share=2', 'flag --own_half_share=2: 2.0 is not a number in the range [0, 1]'),
    ('--client_optimizer=adam', 'halves do not go with adam'),
    ('--lbgm_threshold=0.1', f'--lbgm_threshold has no effect with {named}'),
  ):
    assert binaries.status('train', *arguments, more) == 2
    assert sentence in capsys.readouterr().err
  assert 'own_half_share' not in flags.FLAGS, 'tests leave no flags behind'
