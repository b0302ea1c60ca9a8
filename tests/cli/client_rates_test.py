"""Learning rates by client in the binaries."""

import json
import sys
import textwrap

import pandas as pd
import pytest

from tests.cli import binaries
from tests.runs import small

MODULE = """
  def own(client_id):
    return 0.2 / (1 + int(client_id.removeprefix('client_')))

  def alike(client_id):
    return 0.1

  def negative(client_id):
    return -1
"""
WANTED = {f'client_{i}': 0.2 / (1 + i) for i in range(4)}
FAST = ('--task=digits', *small.ARGUMENTS)


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
  (tmp_path / 'own_rates.py').write_text(textwrap.dedent(MODULE))
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  yield
  sys.modules.pop('own_rates', None)


def recorded(folder):
  return json.loads((folder / 'run.json').read_text())


def test_train(tmp_path):
  for rate in ('0.1', 'own_rates:alike', 'own_rates:own'):
    arguments = (f'--client_learning_rate={rate}', f'--output_dir={tmp_path / rate}')
    binaries.run('train', *FAST, *arguments)
  small.assert_same_numbers(tmp_path / '0.1', tmp_path / 'own_rates:alike')
  own = recorded(tmp_path / 'own_rates:own')
  assert own['flags']['client_learning_rate'] == 'own_rates:own'
  assert own['client_learning_rates'] == WANTED
  assert 'client_learning_rates' not in recorded(tmp_path / '0.1')


@pytest.mark.parametrize('jobs', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_compare(tmp_path, jobs):
  rate = 'client_learning_rate=own_rates:own'
  for _ in range(2):
    binaries.run(
      'compare', f'--methods=fed_avg,scaffold:{rate},lbgm:{rate}', *FAST, f'--jobs={jobs}',
      f'--output_dir={tmp_path}',
    )  # fmt: skip
  assert len(pd.read_csv(tmp_path / 'summary.csv')) == 3
  for method in ('scaffold', 'lbgm'):
    record = recorded(tmp_path / f'{method}:{rate}-seed1')
    assert record['client_learning_rates'] == WANTED and 'resumed' not in record


def test_tune(tmp_path):
  rate = '--client_learning_rate=own_rates:own'
  binaries.run(
    'tune', rate, *FAST, '--search=client_epochs=choice:1|2', '--trials=2',
    f'--output_dir={tmp_path}',
  )  # fmt: skip
  found = [recorded(path.parent) for path in tmp_path.rglob('run.json')]
  assert [record['client_learning_rates'] for record in found] == [WANTED] * 2


@pytest.mark.parametrize(
  'binary', [pytest.param('advise', marks=pytest.mark.slow), 'gradient_space']
)
def test_studies(tmp_path, binary):
  arguments = ('--client_learning_rate=own_rates:own', f'--output_dir={tmp_path / "study"}')
  binaries.run(binary, *FAST, *arguments)
  assert recorded(tmp_path / 'study')['flags']['client_learning_rate'] == 'own_rates:own'


@pytest.mark.parametrize(
  'rate, message',
  [
    ('own_rates:negative', "of client 'client_0' must be at least 0, found -1"),
    ('own_rates:nope', "The module 'own_rates' has no 'nope'"),
    ('0.1x', 'could not convert string to float'),
  ],
)
def test_what_is_wrong_is_a_sentence(tmp_path, rate, message, capsys):
  arguments = (f'--client_learning_rate={rate}', f'--output_dir={tmp_path / "run"}')
  assert binaries.status('train', *FAST, *arguments) == 2
  assert message in capsys.readouterr().err
