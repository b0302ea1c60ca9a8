"""Tests of `benchmarks.device`: prepared here, and measured without TensorFlow."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks.device import check
from benchmarks.device import table

ROOT = pathlib.Path(__file__).resolve().parents[2]
# So that importing it fails.
WITHOUT_TENSORFLOW = """
import sys
for name in ('tensorflow', 'tensorflow_federated', 'absl'):
  sys.modules[name] = None
from benchmarks.device import check
"""
HANGING = """
import time
check.GRACE = 0.5
check.steps = lambda *_: [
  check.Step(dict(part='hand', case='A', mode='batched'), lambda: time.sleep(600))
]
"""


def run_check(folder, json_path, *flags, before=''):
  code = f'{WITHOUT_TENSORFLOW}{before}\nsys.exit(check.main(sys.argv[1:]))'
  done = subprocess.run(
    [sys.executable, '-c', code, str(folder), f'--json={json_path}', *flags],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=400,
  )
  lines = [json.loads(line) for line in json_path.read_text().splitlines()]
  return done, lines


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """A folder with case B in both modes, and what was printed."""
  folder = tmp_path_factory.mktemp('device')
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'benchmarks.device.prepare'),
      *('--cases=B,X', f'--output_dir={folder}'),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return folder, done.stdout


def test_prepared_folder(prepared):
  folder, out = prepared
  assert 'B batched: stage1-0 batched' in out
  assert 'B in_turn: stage1-0 in turn' in out
  assert 'X batched: not available: KeyError' in out
  size = sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
  assert size < 1e6
  for mode in ('batched', 'in_turn'):
    (program,) = json.loads((folder / f'B-{mode}' / 'manifest.json').read_text())['programs']
    assert program['batched'] == (mode == 'batched')
    assert (program['precision'], program['num_calls']) == ('highest', 1)
  left_out = json.loads((folder / 'left_out.json').read_text())
  assert [(line['name'], line['mode']) for line in left_out] == [('X', 'batched'), ('X', 'in_turn')]


def test_measures_without_tensorflow(prepared, tmp_path):
  folder, _ = prepared
  done, lines = run_check(folder, tmp_path / 'lines.jsonl', '--cases=B', '--measure_seconds=0')
  assert done.returncode == 0, done.stdout + done.stderr
  assert lines[0]['platform'] == 'cpu' and lines[-1]['done']
  programs = [line for line in lines if line.get('part') == 'program' and 'ms' in line]
  assert [line['mode'] for line in programs] == ['batched', 'in_turn']
  for line in programs:
    assert 1e-8 < line['cpu_sensitivity'] < 1e-3
    assert line['worst'] < 1e-5 and line['integers_equal'] and line['is_repeatable']
    # 50 clients of 6 batches of 10: x and y; and twice the weights.
    assert 50 * 60 * 4 * 785 <= 1e6 * line['data_mb'] < 2.2 * 50 * 60 * 4 * 785
    assert line['argument_mb'] - line['data_mb'] > 159_010 * 4 / 1e6
    assert min(line[k] for k in ('ms', 'ms_with_data', 'ms_with_crossing')) > 0
  hand = {
    (line['mode'], line['dtype'], line['precision']): line
    for line in lines
    if line.get('part') == 'hand'
  }
  assert set(hand) == {
    ('batched', 'float32', 'highest'),
    ('batched', 'bfloat16', 'default'),
    ('batched', 'float32', 'default'),
    ('in_turn', 'float32', 'highest'),
  }
  assert all(line['ms'] > 0 and line['is_repeatable'] for line in hand.values())
  not_exported = [line for line in lines if 'not_exported' in line]
  assert [line['case'] for line in not_exported] == ['X', 'X']
  row = next(line for line in done.stdout.splitlines() if line.startswith('| B |'))
  ratio = programs[0]['ms'] / hand['batched', 'float32', 'highest']['ms']
  assert f'| {ratio:.2f} |' in row


def test_what_does_not_fit_into_the_time_is_named(prepared, tmp_path):
  folder, _ = prepared
  for parts, number in [('program', 2), ('hand,program', 6)]:
    path = tmp_path / f'{number}.jsonl'
    done, lines = run_check(folder, path, '--cases=B', '--limit_seconds=0', f'--parts={parts}')
    assert done.returncode == 0
    skipped = [line for line in lines if 'skipped' in line]
    assert len(skipped) == number and not any('ms' in line for line in lines)
    assert done.stdout.count('skipped: more than 0 s had passed') == number


def test_a_step_that_hangs_is_ended(prepared, tmp_path):
  folder, _ = prepared
  done, lines = run_check(folder, tmp_path / 'lines.jsonl', '--limit_seconds=4', before=HANGING)
  assert done.returncode == 3
  assert lines[-1]['stopped'].startswith('a step did not finish in 4.5 s')
  assert '- ' in done.stdout and 'stopped: a step did not finish' in done.stdout


def test_a_step_that_fails_is_named_and_the_next_is_taken():
  log = check.Log(None)

  def fail():
    raise RuntimeError('out of\n memory')

  todo = [
    check.Step(dict(part='hand', case='A', mode='batched'), fail),
    check.Step(dict(part='hand', case='B', mode='batched'), lambda: iter([dict(ms=1.0)])),
  ]
  assert not check.measure(todo, log, start=float('inf'), limit=1.0)
  assert log.lines[0]['failed'] == 'RuntimeError: out of memory'
  assert log.lines[1] == dict(part='hand', case='B', mode='batched', ms=1.0)


def test_table():
  program = dict(part='program', case='A', worst=1e-6, is_repeatable=True, temporary_mb=10.0)
  program['cpu_sensitivity'] = 2e-5
  hand = dict(part='hand', case='A', mode='batched', dtype='float32', precision='highest')
  lines = [
    dict(device='H', jax='1', deterministic=False),
    program
    | dict(mode='batched', ms=2.0, ms_with_data=3.0, ms_with_crossing=4.0, num_calls=2)
    | dict(is_repeatable=False),
    program
    | dict(mode='batched', ms=1.0, ms_with_data=1.0, ms_with_crossing=1.0, num_calls=1)
    | dict(worst=3e-6),
    program | dict(mode='in_turn', ms=9.0, ms_with_data=9.5, ms_with_crossing=10.0, num_calls=1),
    hand | dict(convolutions='grouped', ms=7.0, temporary_mb=5.0),
    hand | dict(convolutions='patches', ms=2.5, temporary_mb=6.0),
    hand | dict(convolutions='patches', precision='default', ms=1.5, temporary_mb=6.0),
    hand | dict(convolutions='patches', dtype='bfloat16', ms=0.5, temporary_mb=6.0),
    hand | dict(convolutions='grouped', mode='in_turn', ms=8.0, temporary_mb=6.0),
    dict(part='hand', case='B', mode='batched', skipped='more than 1 s had passed'),
  ]
  rows = list(table.rows(lines))
  assert rows[0] == 'H, jax 1, deterministic: False'
  assert rows[4] == (
    '| A | 5 | 7 | 9 | 2.5 | 2.00 | 9 | 8 | 7 | 1.5 | 0.5 '
    '| 3.0e-06 | 2.0e-05 | NO, yes | 10, 10 (6) |'
  )
  assert rows[5:] == ['- hand B batched: skipped: more than 1 s had passed']
