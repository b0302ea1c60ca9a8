"""Runs whose clients have learning rates of their own."""

import json

import numpy as np
import pytest

from tests.runs import small
from tff_lowrank import runs
from tff_lowrank import settings
from tff_lowrank.runs import client_rates
from tff_lowrank.runs import recording
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import manifest

RATES = dict(ward0=0.3, ward1=0.05, ward2=0.0, ward3=0.11)


def train(folder, rate, method='fed_avg', task=None, **given):
  task = task or small.own_task(name='wards')
  return runs.train(task, method, folder, client_learning_rate=rate, **small.OWN | given)


@pytest.fixture(scope='module')
def own(tmp_path_factory):
  """A run of clients with `RATES`."""
  return train(tmp_path_factory.mktemp('own'), lambda client: RATES[client])


def test_each_client_is_asked_once():
  asked = []

  def rate(client):
    asked.append(client)
    return np.float32(0.5)

  assert client_rates.of_clients(rate, ['a', 'b']) == dict(a=0.5, b=0.5)
  assert asked == ['a', 'b']
  spec = spec_lib.make('fed_avg', dict(client_learning_rate=rate)).with_client_rates(['a'])
  assert spec.with_client_rates(['a']) is spec and asked == ['a', 'b', 'a']
  plain = spec_lib.make('fed_avg')
  assert plain.with_client_rates(['a']) is plain


@pytest.mark.parametrize(
  'value, message',
  [
    (-1, 'must be at least 0, found -1'),
    (np.float64('nan'), 'must be a finite number, found nan'),
    ('0.1', "must be a number, found '0.1'"),
    (None, 'must be a number, found None'),
    (lambda: 1, 'must be a number, found <function'),
  ],
)
def test_what_is_no_rate(value, message):
  with pytest.raises(settings.SettingError, match=f"client_learning_rate of client 'b' {message}"):
    client_rates.of_clients(dict(a=0.1, b=value).get, ['a', 'b'])


def test_functions_by_name():
  assert client_rates.of_clients('math:sqrt', [4, 9]) == {4: 2, 9: 3}
  for name, message in (('math:pi', 'is not a function, but 3.14'), ('math:nope', 'has no')):
    with pytest.raises(settings.SettingError, match=f'client_learning_rate: .*{message}'):
      spec_lib.make('fed_avg', dict(client_learning_rate=name))


@pytest.mark.parametrize('method', ['fed_avg', 'lbgm', 'scaffold', 'fed_per'])
def test_one_rate_for_all_is_the_plain_run_to_the_bit(tmp_path, method):
  given = dict(client_rate_decay=0.9)
  if method == 'fed_per':
    given |= dict(client_test_fraction=0.3, evaluate_after_training=True, client_metrics=True)
  plain = train(tmp_path / 'plain', 0.1, method, **given)
  found = train(tmp_path / 'found', lambda client: 0.1, method, **given)
  small.assert_same_numbers(plain.folder, found.folder)
  assert found.metrics['eval_accuracy'].notna().all()


def test_updates_are_gradients_times_rates():
  """With all data in one step, in the first round, of the clients that took part in it."""
  task, found = small.own_task(), []
  given = small.OWN | dict(rounds=1, clients_per_round=0, batch_size=0)
  for rate in (RATES.get, 1.0):
    spec = spec_lib.make('fed_avg', dict(given, client_learning_rate=rate), task)
    recording.record(spec, task, lambda done, _: found.append(done.updates))
  assert found[0].keys() == RATES.keys()
  for client, rate in RATES.items():
    for update, gradient in zip(found[0][client], found[1][client], strict=True):
      np.testing.assert_allclose(update, rate * gradient, rtol=1e-3, atol=1e-7)
    assert any(np.any(gradient) for gradient in found[1][client])


def test_they_are_recorded(own):
  record = json.loads((own.folder / 'run.json').read_text())
  assert record['client_learning_rates'] == RATES
  assert record['flags']['client_learning_rate'] == 'by client'


def test_goes_on_with_the_same_rates_alone(tmp_path, own):
  train(tmp_path, RATES.get, rounds=1)
  found = train(tmp_path, lambda client: RATES[client])  # Another function.
  small.assert_same_numbers(found.folder, own.folder)
  assert len(found.record['resumed']) == 1
  before = (tmp_path / 'run.json').read_bytes()
  for rate, message in (
    (dict(RATES, ward1=0.06).get, "of client 'ward1' is 0.05 there and 0.06 here"),
    (0.1, "--client_learning_rate is 'by client' there and 0.1 here"),
  ):
    with pytest.raises(manifest.MismatchError, match=message):
      train(tmp_path, rate)
  assert (tmp_path / 'run.json').read_bytes() == before


def test_the_stock_runtime_gives_these_numbers(tmp_path, own):
  found = train(tmp_path, lambda client: RATES[client], context='stock')
  for column in ('train_loss', 'eval_loss'):
    np.testing.assert_allclose(found.metrics[column], own.metrics[column], rtol=1e-5)
