import io
import re
import sys

import pytest

from tests.runs import small
from tff_lowrank import runs
from tff_lowrank.runs import progress


@pytest.fixture
def clock(monkeypatch):
  """Sets the time."""
  now = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  return lambda seconds: now.__setitem__(0, seconds)


def test_a_line_every_so_often_where_there_is_no_terminal(clock, capsys):
  told = []
  with progress.Progress('lbgm', 100, 40) as shown:
    for round_num, seconds in ((41, 10), (42, 29), (43, 31), (44, 40), (45, 62)):
      clock(seconds)
      shown.update(round_num, {'MB': '1.5', 'accuracy': '0.9000'})
      told.append(capsys.readouterr().err)
  assert [bool(text) for text in told] == [False, False, True, False, True]
  # 57 rounds at 31 / 3 s.
  assert told[2] == 'lbgm: round 43 of 100, MB 1.5, accuracy 0.9000, about 10 min left\n'
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
  'seconds, left', [(30, '30 s'), (89, '89 s'), (90, '2 min'), (5000, '83 min'), (9000, '2.5 h')]
)
def test_the_time_that_is_left(clock, capsys, seconds, left):
  with progress.Progress('', 2, 0) as shown:
    clock(seconds)
    shown.update(1, {'MB': '0.0'})
  assert f'about {left} left' in capsys.readouterr().err


def test_a_bar_in_a_terminal(monkeypatch):
  terminal = io.StringIO()
  terminal.isatty = lambda: True
  monkeypatch.setattr(sys, 'stderr', terminal)
  monkeypatch.setattr(progress, 'SECONDS', 0)
  with progress.Progress('lbgm', 3, 1) as shown:
    shown.update(2, {'MB': '1.5'})
    shown.update(3, {'MB': '2.0'})
  assert re.search(r'lbgm: 100%.* 3/3 .*MB=2.0', terminal.getvalue())
  assert 'round 2 of 3' not in terminal.getvalue()


def train(folder, **given):
  runs.train('digits', 'fed_per', folder, **small.FAST | dict(client_test_fraction=0.2) | given)


def test_what_a_run_tells(tmp_path, monkeypatch, capsys):
  train(tmp_path, rounds=1)
  assert 'round 1' not in capsys.readouterr().err
  monkeypatch.setattr(progress, 'SECONDS', 0)
  train(tmp_path, rounds=3, eval_every=1)
  lines = re.findall('fed_per: round .*', capsys.readouterr().err)
  number = r'\d\.\d{4}'
  for r, line in enumerate(lines, start=2):
    assert re.fullmatch(
      rf'fed_per: round {r} of 3, MB 0\.\d, accuracy {number}, personal_accuracy {number}, '
      r'about \d+ s left',
      line,
    )
  assert len(lines) == 2
