"""Runs as objects: trained in this process, and read back from their folders."""

import sys
import textwrap
import threading

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.cli import binaries
from tests.runs import small
from tff_lowrank import files
from tff_lowrank import methods
from tff_lowrank import runs
from tff_lowrank import settings
from tff_lowrank import tasks
from tff_lowrank.simulation import manifest

LBGM = dict(small.FAST, lbgm_threshold=0.9)


@pytest.fixture(scope='module')
def lbgm(tmp_path_factory):
  """A run of a task by its name."""
  return runs.train('digits', 'lbgm', tmp_path_factory.mktemp('lbgm'), **LBGM)


@pytest.fixture(scope='module')
def fedpara(tmp_path_factory):
  """A run of a factorised model, whose best round is not its last."""
  folder = tmp_path_factory.mktemp('fedpara')
  saving = runs.Saving(keep_best=True)
  given = small.FAST | dict(rounds=4, seed=3, client_learning_rate=1.0)
  return runs.train('digits', 'fedpara', folder, saving=saving, **given)


@pytest.fixture(scope='module')
def own(tmp_path_factory):
  """A run of a user's task."""
  folder = tmp_path_factory.mktemp('own')
  return runs.train(small.own_task(name='wards'), 'fed_avg', folder, **small.OWN)


def digits(**options):
  return tasks.build('digits', num_clients=4, seed=1, **options)


@pytest.fixture(scope='module')
def binary(tmp_path_factory):
  """What the binary writes."""
  folder = tmp_path_factory.mktemp('binary')
  binaries.run(
    'train', '--task=digits', '--method=lbgm', '--lbgm_threshold=0.9', *small.ARGUMENTS,
    f'--output_dir={folder}',
  )  # fmt: skip
  return folder


def test_a_task_by_name_gives_the_numbers_of_the_binary(lbgm, binary):
  small.assert_same_numbers(lbgm.folder, binary)
  assert lbgm.settings == runs.Run(binary).settings
  pd.testing.assert_frame_equal(lbgm.ledger, runs.Run(binary).ledger)


def test_a_task_as_an_object_gives_the_numbers_of_the_binary(tmp_path, binary):
  found = runs.train(digits(), 'lbgm', tmp_path, **LBGM)
  small.assert_same_numbers(found.folder, binary)
  assert found.settings['partition'] == 'natural'
  assert found.record['sources']['task'].keys() == {'sha256'}


def test_a_task_of_a_function_gives_the_numbers_of_the_binary(tmp_path, binary, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'own_digits_of_runs.py').write_text(
    textwrap.dedent("""
      from tff_lowrank import tasks

      def build(clients: int):
        return tasks.build('digits', num_clients=clients, seed=1)
    """)
  )
  folder = tmp_path / 'run'
  name, given = 'own_digits_of_runs:build', LBGM | dict(num_clients=0, task_args='clients=4')
  found = runs.train(name, 'lbgm', folder, **given)
  del sys.modules['own_digits_of_runs']
  small.assert_same_numbers(folder, binary)
  assert found.settings['task_args'] == 'clients=4'
  assert found.record['sources']['task']['file'] == str(tmp_path / 'own_digits_of_runs.py')


def test_what_a_run_has(lbgm):
  assert lbgm.settings['lbgm_threshold'] == 0.9 and lbgm.record['status'] == 'completed'
  assert lbgm.metrics['round'].tolist() == [1, 2]
  ledger = lbgm.ledger
  assert [*ledger.columns] == [
    'round', 'client', 'direction', 'payload_bits', 'index_or_mask_bits', 'flag_bits',
    'scalar_bits', 'catch_up_bits', 'bytes', 'official_units',
  ]  # fmt: skip
  first = ledger[(ledger['round'] == 1) & (ledger['direction'] == 'uplink')]
  assert first['payload_bits'].tolist() == [32 * 4810] * 2
  assert first['flag_bits'].tolist() == [4] * 2
  bits = ledger.filter(like='_bits').sum(axis=1)
  assert ledger['bytes'].tolist() == (-(-bits // 8)).tolist()
  total = lbgm.metrics[['uplink_bytes', 'downlink_bytes']].to_numpy().sum()
  assert ledger['bytes'].sum() == total
  assert lbgm.report.read_text().startswith('<!')
  assert str(lbgm.folder) in repr(lbgm)


def test_a_folder_of_a_run_is_read_back(lbgm):
  found = runs.Run(str(lbgm.folder))
  pd.testing.assert_frame_equal(found.metrics, lbgm.metrics)


def test_a_folder_of_no_run(tmp_path):
  with pytest.raises(FileNotFoundError, match='Expected a run folder'):
    runs.Run(tmp_path)


def test_the_model_has_the_accuracy_of_the_last_evaluation(lbgm, own):
  for run, task in ((lbgm, digits()), (own, small.own_task())):
    found = small.accuracy(run.load_model(), task)
    assert found == pytest.approx(run.metrics['eval_accuracy'].iloc[-1], abs=1e-6)


def test_the_composed_model_is_the_same(fedpara):
  task = digits()
  factorised, composed = fedpara.load_model(), fedpara.load_model('composed')
  assert factorised.count_params() != composed.count_params()
  assert {type(layer) for layer in composed.layers} <= {
    tf.keras.layers.Dense, tf.keras.layers.InputLayer, tf.keras.layers.Flatten
  }  # fmt: skip
  a, b = (small.outputs(model, task)[0] for model in (factorised, composed))
  np.testing.assert_allclose(a, b, atol=1e-5)
  accuracy = fedpara.metrics['eval_accuracy'].iloc[-1]
  assert small.accuracy(factorised, task) == pytest.approx(accuracy, abs=1e-6)


def test_the_best_model(fedpara):
  accuracies = fedpara.metrics['eval_accuracy']
  assert fedpara.record['best_round'] == accuracies.idxmax() + 1 < len(accuracies)
  found = small.accuracy(fedpara.load_model('best'), digits())
  assert found == pytest.approx(accuracies.max(), abs=1e-6)


def test_models_that_a_run_does_not_have(lbgm):
  for name in ('best', 'composed'):
    with pytest.raises(FileNotFoundError, match='model_.*.keras'):
      lbgm.load_model(name)
  with pytest.raises(ValueError, match="one of model, composed, best, found 'last'"):
    lbgm.load_model('last')


def test_goes_on_and_does_nothing_if_complete(tmp_path, lbgm, capsys):
  runs.train('digits', 'lbgm', tmp_path, **LBGM | dict(rounds=1))
  found = runs.train('digits', 'lbgm', tmp_path, **LBGM)
  small.assert_same_numbers(found.folder, lbgm.folder)
  assert len(found.record['resumed']) == 1
  capsys.readouterr()
  again = runs.train('digits', 'lbgm', tmp_path, **LBGM)
  assert again.record == found.record
  assert 'is finished, with 2 rounds' in capsys.readouterr().out


def test_another_run_is_refused(lbgm):
  before = (lbgm.folder / 'run.json').read_bytes()
  for method, given in (('lbgm', dict(LBGM, lbgm_threshold=0.8)), ('fed_avg', small.FAST)):
    with pytest.raises(manifest.MismatchError, match='contains another run'):
      runs.train('digits', method, lbgm.folder, **given)
  assert (lbgm.folder / 'run.json').read_bytes() == before


def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path):
  for task, given, message in (
    ('digits', dict(rouns=3), 'rouns'),
    (small.own_task(), dict(num_clients=5, clients_per_round=5), '5'),
    (small.own_task(), dict(model_family='low_rank', fedpara_head_rank=2), 'fedpara_head_rank'),
  ):
    with pytest.raises(settings.SettingError, match=message):
      runs.train(task, 'fed_avg', tmp_path / 'run', **given)
  assert not (tmp_path / 'run').exists()


def test_more_clients_a_round_than_there_are(tmp_path):
  with pytest.raises(settings.SettingError, match='clients_per_round.* 4.* 10'):
    runs.train(small.own_task(), 'fed_avg', tmp_path)
  found = runs.train(small.own_task(), 'fed_avg', tmp_path, **small.OWN)
  assert found.record['status'] == 'completed'


def test_in_a_thread(tmp_path, lbgm):
  """As in a notebook's: signals are the main thread's alone."""
  found = []

  def train():
    before = tff.framework.get_context_stack().current
    found.append(runs.train('digits', 'lbgm', tmp_path, **LBGM))
    assert tff.framework.get_context_stack().current is before
    found.append('done')

  thread = threading.Thread(target=train)
  thread.start()
  thread.join()
  assert found[-1] == 'done'
  small.assert_same_numbers(tmp_path, lbgm.folder)


@pytest.mark.parametrize('context', ['local', 'stock'])
def test_the_installed_context_stays(tmp_path, context):
  stack = tff.framework.get_context_stack()
  before = stack.current
  runs.train('digits', 'fed_avg', tmp_path, **small.FAST | dict(rounds=1, context=context))
  assert stack.current is before
  with pytest.raises(settings.SettingError):
    runs.train('digits', 'fed_avg', tmp_path / 'b', **small.FAST | dict(num_clients=1))
  assert stack.current is before


def test_a_method_of_one_s_own(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'own_method_of_runs.py').write_text(
    'from tff_lowrank import methods\nMINE = methods.find("fed_avg")\n'
  )
  found = runs.train('digits', 'own_method_of_runs:MINE', tmp_path / 'run', **small.FAST)
  assert found.record['sources'].keys() == {'method'}
  assert found.settings['method'] == 'own_method_of_runs:MINE'
  assert found.record['method']['name'] == methods.BASELINE.name


def test_compares_a_list(tmp_path, lbgm, fedpara):
  found = runs.compare([lbgm, fedpara], tmp_path / 'a' / 'b')
  assert found.table['method'].tolist() == ['lbgm', 'fedpara']
  assert found.table['rounds'].tolist() == [2, 4]
  # Of different lengths: at the rounds of the shorter.
  assert str(found.budget) == '2 rounds' and found.table['compared_round'].tolist() == [2, 2]
  accuracies = [run.metrics['eval_accuracy'][1] for run in (lbgm, fedpara)]
  np.testing.assert_allclose(found.table['compared_accuracy'], accuracies)
  assert found.report == tmp_path / 'a' / 'b' / 'report.html' and found.report.exists()
  assert all(path.exists() for path in found.pictures)
  assert 'lbgm' in found.to_markdown()


def test_compares_by_label(tmp_path, lbgm, fedpara):
  found = runs.compare({'look back': lbgm, 'factors': fedpara}, tmp_path, at='bytes', budget=1e5)
  assert found.table['method'].tolist() == ['look back', 'factors']
  assert str(found.budget) == '0.1 MB'
  assert 'look back' in found.to_markdown()


def test_what_cannot_be_compared(tmp_path, lbgm):
  with pytest.raises(settings.SettingError, match='must differ in label or seed, found lbgm-seed1'):
    runs.compare([lbgm, lbgm], tmp_path)
  with pytest.raises(settings.SettingError, match='Expected runs to compare, found none'):
    runs.compare([], tmp_path)


def test_a_damaged_file_is_told(tmp_path):
  run = runs.train('digits', 'fed_avg', tmp_path, **small.FAST | dict(rounds=1))
  for name, read in (
    ('ledger.parquet', lambda: run.ledger),
    ('metrics.csv', lambda: run.metrics),
    ('model.keras', run.load_model),
    ('run.json', lambda: run.settings),
  ):
    (tmp_path / name).write_bytes(b'?')
    with pytest.raises(files.FileError, match=name):
      read()


def test_a_ledger_with_earlier_names(tmp_path, lbgm):
  for name in ('run.json', 'metrics.csv'):
    (tmp_path / name).write_bytes((lbgm.folder / name).read_bytes())
  names = {name: name.removesuffix('_bits') for name in lbgm.ledger}
  lbgm.ledger.rename(columns=names).to_parquet(tmp_path / 'ledger.parquet')
  pd.testing.assert_frame_equal(runs.Run(tmp_path).ledger, lbgm.ledger)
