import collections
import csv
import dataclasses

import numpy as np
import pandas as pd
import pytest

from tff_lowrank import ledger
from tff_lowrank.runs import recorder
from tff_lowrank.simulation import rounds


def price(bits):
  return collections.OrderedDict((kind, bits * (kind == 'payload')) for kind in ledger.KINDS)


def done(number, is_accepted=True):
  metrics = dict(
    client_work=dict(train=dict(loss=1.0, accuracy=0.5)),
    aggregator=collections.OrderedDict(codec=collections.OrderedDict(own=7)),
    finalizer=(),
  )
  report = dict(accepted=is_accepted, uplink=price(80), downlink=price(160), official_units=1)
  return rounds.Round(number, ['../a'], None, [report], metrics, 0.1, [('b', 'dropped out')])


def read(folder):
  with open(folder / 'metrics.csv', newline='') as file:
    return list(csv.DictReader(file))


def test_a_round_in_which_nobody_took_part_has_empty_cells(tmp_path):
  nobody = rounds.Round(1, [], None, [], None, 0.1, [('a', 'no examples')])
  with recorder.Recorder(tmp_path, ['own']) as book:
    for log in book.logs.values():
      log.rewind()
    book.record(nobody, dict(loss=2.0, accuracy=0.1))
    book.record(done(2, is_accepted=False), None)
  first, second = read(tmp_path)
  assert (first['train_loss'], first['own'], first['eval_loss']) == ('', '', '2.0')
  assert (first['participants'], first['dropped_clients']) == ('1', '1')
  assert (second['train_loss'], second['own']) == ('1.0', '7')
  # One was not accepted, one was absent.
  assert (second['participants'], second['dropped_clients']) == ('2', '2')


def opened(folder):
  book = recorder.Recorder(folder, ['own'])
  for log in book.logs.values():
    log.rewind()
  return book


@pytest.mark.parametrize('bad', ['0.5', None, [1.0, 2.0], np.zeros(2), np.array('x'), {}, 1j])
@pytest.mark.parametrize('name', ['train_loss', 'train_accuracy', 'eval_loss', 'own'])
def test_refuses_metrics_that_are_no_numbers(tmp_path, name, bad):
  if name == 'own' and (isinstance(bad, dict) or np.ndim(bad)):
    pytest.skip("A method's own measurements may be nested, or vectors.")
  one, evaluated = done(1), dict(loss=2.0, accuracy=0.1)
  train, codec = one.metrics['client_work']['train'], one.metrics['aggregator']['codec']
  kind, _, key = name.rpartition('_')
  dict(train=train, eval=evaluated).get(kind, codec)[key] = bad
  with opened(tmp_path) as book:
    with pytest.raises(TypeError, match=f'The metric .*{name}.* must be a single number, found'):
      book.record(one, evaluated)
    book.record(done(1), None)
  assert [row['round'] for row in read(tmp_path)] == ['1']
  assert len(pd.read_parquet(tmp_path / 'ledger.parquet')) == 2


def test_metrics_of_a_diverged_model_are_numbers(tmp_path):
  one = done(1)
  one.metrics['client_work']['train'].update(loss=np.float32('nan'), accuracy=np.float16(0.5))
  with opened(tmp_path) as book:
    book.record(one, dict(loss=np.inf, accuracy=0.1))
  (row,) = read(tmp_path)
  assert (row['train_loss'], row['train_accuracy'], row['eval_loss']) == ('nan', '0.5', 'inf')
  read_back = pd.read_csv(tmp_path / 'metrics.csv')
  assert np.isnan(read_back['train_loss'][0]) and np.isinf(read_back['eval_loss'][0])


def test_client_ids_name_no_files_and_are_read_back(tmp_path):
  ids = ['../../x', '/etc/x', 'a\nb,"c|', '<b>', '']
  folder = tmp_path / 'run'
  folder.mkdir()
  with recorder.Recorder(folder, ['own']) as book:
    for log in book.logs.values():
      log.rewind()
    one = done(1)
    book.record(dataclasses.replace(one, client_ids=ids, reports=list(one.reports) * 5), None)
  assert [*tmp_path.iterdir()] == [folder]
  assert {path.name for path in folder.iterdir()} == {
    'metrics.csv', 'ledger.arrows', 'ledger.parquet', 'tensorboard'
  }  # fmt: skip
  entries = pd.read_parquet(folder / 'ledger.parquet')
  assert entries['client'].tolist() == [c for c in ids for _ in range(2)]


def test_goes_on_where_it_was_rewound_to(tmp_path):
  with recorder.Recorder(tmp_path, ['own']) as book:
    for log in book.logs.values():
      log.rewind()
    book.record(done(1), None)
    saved = book.save(), {name: log.sync() for name, log in book.logs.items()}
    book.record(done(2), None)
  with recorder.Recorder(tmp_path, ['own']) as book:
    for name, log in book.logs.items():
      log.rewind(saved[1][name])
    book.restore(saved[0])
    book.record(done(2), None)
    book.record(done(3), None)
  assert [row['cumulative_uplink_bytes'] for row in read(tmp_path)] == ['10', '20', '30']
  assert [row['round'] for row in read(tmp_path)] == ['1', '2', '3']
