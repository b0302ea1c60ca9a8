"""What runs and studies left, whole or damaged: the same numbers as before, or a FileError."""

import contextlib
import json
import math
import os
import shutil

from absl import flags
from hypothesis import strategies as st
import optuna
import pytest

from tests.cli import binaries
from tests.fuzz import fuzzing
from tests.reports.run_folders import write_run
from tff_lowrank import files
from tff_lowrank.cli import replay
from tff_lowrank.cli import run_flags  # noqa: F401 (defines --output_dir)
from tff_lowrank.cli import tune
from tff_lowrank.reports import report
from tff_lowrank.reports import run_files
from tff_lowrank.reports import table
from tff_lowrank.simulation import manifest
from tff_lowrank.simulation import network

NAMES = ('run.json', 'metrics.csv', 'ledger.parquet', 'SHA256SUMS', 'checkpoint.json')
JUNK = [b'', b'\0' * 50, b'[' * 100_000, b'{"a": 1e999}', b'round\n1\n', b'PAR1' * 10, b'9' * 9999]
FIFO, FOLDER = 'a FIFO', 'a folder'


def add_checkpoint(run):
  """The newest checkpoint of a run, as far as readers of its numbers need it."""
  path = manifest.path_of(run / run_files.CHECKPOINTS, 2)
  path.mkdir(parents=True)
  record = run_files.read_record(run / run_files.RECORD)
  written = run_files._hash(run / run_files.METRICS)
  content = dict(flags=record['flags'], logs={run_files.METRICS: list(written)})
  (path / manifest.FILE).write_bytes(manifest.seal(content))


def path_in(run, name):
  return next(iter(run.rglob(name)))


def put(path, content):
  if path.is_dir():
    path.rmdir()
  path.unlink(missing_ok=True)
  if content == FIFO:
    os.mkfifo(path)
  elif content == FOLDER:
    path.mkdir()
  else:
    path.write_bytes(content)


def row(run):
  """What replaying a run gives, without NaN, which is not equal to itself."""
  found = replay.replay(run, network.Network(), 0.5)
  return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in found.items()}


@pytest.fixture
def whole(tmp_path):
  """Two runs that are verified."""
  for seed in (1, 2):
    run = write_run(tmp_path / f'seed{seed}', seed, 1000 * seed, 3000, [0.5, 0.25 * seed])
    add_checkpoint(run)
    run_files.write_sums(run)
  return tmp_path / 'seed1'


def damages(run):
  """(name, content) of one file: damaged, junk, the other run's, no file at all."""
  content = {name: path_in(run, name).read_bytes() for name in NAMES}
  other = {name: path_in(run.with_name('seed2'), name).read_bytes() for name in NAMES}
  corpus = [(name, junk) for name in NAMES for junk in [*JUNK, FIFO, FOLDER, other[name]]]
  corpus += [(name, content[swapped]) for name in NAMES for swapped in NAMES]
  strategy = st.one_of(
    st.tuples(st.just(name), fuzzing.damaged(data)) for name, data in content.items()
  )
  return corpus, strategy


@fuzzing.AMOUNTS
def test_a_verified_run_has_its_own_numbers_or_is_refused(examples, whole):
  expected = row(whole)
  paths = {name: path_in(whole, name) for name in NAMES}
  content = {name: path.read_bytes() for name, path in paths.items()}

  def check(damage):
    name, data = damage
    put(paths[name], data)
    try:
      assert row(whole) == expected
    except files.FileError as e:
      assert str(whole) in str(e)
    put(paths[name], content[name])

  corpus, strategy = damages(whole)
  fuzzing.fuzz(examples, strategy, check, corpus)
  assert row(whole) == expected


JSON = st.recursive(
  st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
  lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
  ),
  max_leaves=8,
)


@fuzzing.AMOUNTS
def test_a_run_without_sums_is_read_or_refused(examples, whole, tmp_path):
  shutil.rmtree(whole / run_files.CHECKPOINTS)
  (whole / run_files.SUMS).unlink()
  paths = {name: whole / name for name in NAMES[:3]}
  content = {name: path.read_bytes() for name, path in paths.items()}
  record = json.loads(content['run.json'])

  def check(damage):
    name, data = damage
    put(paths[name], data)
    with contextlib.suppress(files.FileError):
      row(whole)
      found = table.build_table([('fed_avg', whole)], network.Network())
      table.to_markdown(found)
      report.write_run(whole, 'run')
    put(paths[name], content[name])

  def changed(base, wrap):
    """A record with another value somewhere."""
    values = st.builds(lambda key, x: wrap({**base, key: x}), st.sampled_from([*base]), JSON)
    return values.map(lambda found: ('run.json', json.dumps(found).encode()))

  strategy = st.one_of(
    *(st.tuples(st.just(name), fuzzing.damaged(data)) for name, data in content.items()),
    changed(record, lambda found: found),
    changed(record['flags'], lambda found: {**record, 'flags': found}),
  )
  corpus = [(name, junk) for name in paths for junk in [*JUNK, FIFO, FOLDER]]
  corpus.append(('run.json', json.dumps(record | dict(devices=[None])).encode()))
  fuzzing.fuzz(examples, strategy, check, corpus)


@fuzzing.AMOUNTS
def test_a_study_has_its_own_trials_or_is_refused(examples, tmp_path):
  path = tmp_path / 'study.sqlite'

  def trials():
    study = tune._load_study(path)
    return [(t.number, t.state, t.values, t.params) for t in study.get_trials(deepcopy=False)]

  with binaries.no_flags_set():
    flags.FLAGS(['tune', '--output_dir=unused'])
    study = tune._load_study(path)
    for values in ([0.5, 100.0], [0.25, 50.0]):
      trial = study.ask()
      trial.suggest_float('client_learning_rate', 0.1, 1)
      for name, value in zip(tune._RESULTS, values, strict=True):
        trial.set_user_attr(name, value)
      tune._settle(study, trial, values=values)
    expected, whole = trials(), path.read_bytes()
    assert len(expected) == 2 and expected[0][1] == optuna.trial.TrialState.COMPLETE

    def check(content):
      put(path, content)
      try:
        # An empty file, or one without tables, is a new study.
        assert trials() in (expected, [])
      except files.FileError as e:
        assert str(path) in str(e)

    corpus = [
      *JUNK,
      whole,
      whole[:4096],
      whole[:-1],
      FIFO,
      FOLDER,
      b'SQLite format 3\0' + bytes(4080),
    ]
    places = [i for i in range(0, len(whole), 997) if whole[i]]
    corpus += [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in places]
    fuzzing.fuzz(examples, fuzzing.damaged(whole), check, corpus)
