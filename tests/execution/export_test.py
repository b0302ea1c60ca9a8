"""Tests of `execution.export`."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.execution import cases
from tests.learning import linear
from tff_lowrank import execution
from tff_lowrank import exported


def local():
  return execution.create_local_context(devices=['CPU:0'], compile='xla', max_clients_in_flight=1)


def run_on_cpu(program, arguments):
  executable = exported.Executable(program.artifact, jax.devices('cpu')[0])
  return exported.to_host(executable(executable.put(arguments)))


def run_all(folder):
  """Each program's results on the inputs in the folder are those in it."""
  lines = [exported.run(program, jax.devices('cpu')[0]) for program in exported.load(folder)]
  assert lines
  for line in lines:
    assert line['worst'] < 1e-5 and line['is_repeatable'], line
  return lines


@pytest.fixture(scope='module')
def averaging(tmp_path_factory):
  """A folder and its manifest; a process and the arguments of its `next`."""
  folder = tmp_path_factory.mktemp('averaging')
  with local():
    process, _, data = cases.federated_averaging(np.random.default_rng(0))
    arguments = [process.initialize(), data]
  return folder, execution.export_programs(process.next, arguments, folder), process, arguments


def test_programs_of_a_round(averaging):
  folder, manifest, process, _ = averaging
  assert manifest == json.loads((folder / 'manifest.json').read_text())
  assert manifest['computation'].startswith(
    process.next.type_signature.compact_representation()[:100]
  )
  for entry in manifest['programs']:
    assert (entry['stage'], entry['batched'], entry['precision']) == (1, False, 'highest')
  calls = sum(entry['num_calls'] for entry in manifest['programs'])
  # Clients whose last batch is smaller come one by one.
  assert 2 <= calls <= 5
  run_all(folder)


def test_arrays_are_those_of_the_round(averaging):
  folder, _, _, arguments = averaging
  weights = arguments[0].global_model_weights.trainable
  arrays = [a for program in exported.load(folder)[:1] for a in program.arguments()]
  for weight in weights:
    assert any(a.shape == weight.shape and np.array_equal(a, weight) for a in arrays)


def test_results_are_the_clients_weighted_updates(averaging):
  """Of the first call of the first program, which is the first client's, in float64."""
  folder, _, _, arguments = averaging
  program = exported.load(folder)[0]
  results = run_on_cpu(program, program.arguments())
  weights = arguments[0].global_model_weights.trainable
  examples = cases.federated_averaging(np.random.default_rng(0))[1][0]
  trained = linear.train(weights, *examples, cases.BATCH, cases.CLIENT_RATE)
  for before, after in zip(weights, trained, strict=True):
    want = cases.SIZES[0] * (before - after)
    assert any(r.shape == want.shape and np.allclose(r, want, atol=1e-5) for r in results)


def test_seeds_in_place_of_large_arrays(tmp_path):
  with local():
    process, arguments = wide_averaging()
  manifest = execution.export_programs(process.next, arguments, tmp_path, inputs='seeds')
  (entry,) = manifest['programs']
  random = [e for e in entry['arguments'] if 'random' in e]
  assert {tuple(e['shape'][-2:]) for e in random} == {(400, 300), (20, 400)}
  assert any(e['sketched'] for e in entry['results'])
  assert not all(e['sketched'] for e in entry['results'])
  size = sum(path.stat().st_size for path in tmp_path.iterdir())
  assert size < 100_000 < sum(4 * np.prod(e['shape']) for e in random)
  run_all(tmp_path)


def wide_averaging():
  rng = np.random.default_rng(0)
  data = [
    tf.data.Dataset.from_tensor_slices(
      (rng.random((200, 400), dtype=np.float32), rng.integers(0, 300, 200))
    ).batch(20)
    for _ in range(4)
  ]
  model = tff.learning.models.functional_model_from_keras(
    tf.keras.Sequential([tf.keras.layers.InputLayer((400,)), tf.keras.layers.Dense(300)]),
    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    data[0].element_spec,
  )
  process = tff.learning.algorithms.build_weighted_fed_avg(model, cases.sgd(0.1), cases.sgd(1.0))
  return process, [process.initialize(), data]


def test_variables_of_a_recurrent_model_come_along(tmp_path):
  with local():
    process, data = cases.lstm_averaging(np.random.default_rng(0))
    arguments = [process.initialize(), data]
  manifest = execution.export_programs(
    process.next, arguments, tmp_path, precision='highest', inputs='arrays'
  )
  for entry in manifest['programs']:
    assert entry['precision'] == 'highest'
    assert any(e['name'].startswith('captured') for e in entry['arguments'])
  run_all(tmp_path)


def test_64_bits(tmp_path):
  numbers = [[2**40, 3, 5] * 8, [7] * 20]
  manifest = execution.export_programs(cases.sum_of_all, [numbers], tmp_path)
  assert any(e['dtype'] == 'int64' for e in manifest['programs'][0]['results'])
  run_all(tmp_path)


def test_without_inputs(tmp_path):
  numbers = [[1] * 20]
  execution.export_programs(cases.sum_of_all, [numbers], tmp_path, inputs='none')
  (program,) = exported.load(tmp_path)
  with pytest.raises(ValueError, match='no input'):
    program.arguments()


def test_programs_of_a_context_that_ran_before_and_of_no_other(tmp_path):
  numbers = [[1] * 20]
  with local() as context:
    assert cases.sum_of_all(numbers) == 20
  manifest = execution.export_programs(cases.sum_of_all, [numbers], tmp_path, context=context)
  assert [p['num_calls'] for p in manifest['programs']] == [1]


def test_says_why_there_is_no_program(tmp_path):
  double = tff.tensorflow.computation(lambda x: 2 * x, np.int32)
  computation = tff.federated_computation(
    lambda x: tff.federated_sum(tff.federated_map(double, x)),
    tff.FederatedType(np.int32, tff.CLIENTS),
  )
  with pytest.raises(ValueError, match='stage 1 on CPU:0: no loop over a data set'):
    execution.export_programs(computation, [[1, 2]], tmp_path)
  with execution.create_local_context(compile='tensorflow') as context:
    with pytest.raises(ValueError, match="compile='tensorflow'"):
      execution.export_programs(cases.sum_of_all, [[[1] * 20]], tmp_path, context=context)


def test_refuses_other_arguments(tmp_path):
  with pytest.raises(TypeError, match='tff.Computation'):
    execution.export_programs(lambda x: x, [1], tmp_path)
  with pytest.raises(ValueError, match='inputs'):
    execution.export_programs(cases.sum_of_all, [[[1]]], tmp_path, inputs='some')
  with pytest.raises(ValueError, match='precision'):
    execution.export_programs(cases.sum_of_all, [[[1]]], tmp_path, precision='half')


def test_binary_runs_a_folder(averaging, capsys):
  folder, manifest, _, _ = averaging
  assert exported.main(['run', str(folder), '--device=cpu', '--repeats=1']) == 0
  out = capsys.readouterr().out
  assert out.count(': ok, compiled in') == len(manifest['programs'])
  assert exported.main(['show', str(folder)]) == 0
  assert 'stage1-0: stage 1, one client after the other' in capsys.readouterr().out


def test_binary_says_when_results_differ(averaging, tmp_path, capsys):
  folder, *_ = averaging
  for path in folder.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  with np.load(tmp_path / 'stage1-0.npz') as arrays:
    changed = dict(arrays)
  name = next(k for k, a in changed.items() if k.startswith('result') and a.dtype.kind == 'f')
  changed[name] = changed[name] * 1.01 + 1e-3
  np.savez(tmp_path / 'stage1-0.npz', **changed)
  assert exported.main(['run', str(tmp_path), '--device=cpu', '--repeats=1']) == 1
  assert 'stage1-0: DIFFERS' in capsys.readouterr().out


def newest_python():
  """The newest Python of this machine, for the newest jax; at least this one."""
  found = {sys.version_info[:2]: sys.executable}
  for minor in range(12, 16):
    versions = sorted(pathlib.Path.home().glob(f'.pyenv/versions/3.{minor}.*/bin/python'))
    for python in [shutil.which(f'python3.{minor}'), *versions]:
      command = [str(python), '-c', 'import venv']
      if python and subprocess.run(command, capture_output=True).returncode == 0:
        found[3, minor] = str(python)
  return found[max(found)]


@pytest.mark.slow
def test_newest_jax_runs_the_programs(averaging, tmp_path):
  """In an environment of its own, without TensorFlow, from the copy in the folder."""
  folder, *_ = averaging
  python = tmp_path / 'new' / 'bin' / 'python'
  subprocess.run([newest_python(), '-m', 'venv', tmp_path / 'new'], check=True)
  subprocess.run([python, '-m', 'pip', 'install', '-q', 'jax', 'numpy'], check=True)
  environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
  for of_case in (folder, lstm_folder(tmp_path), int_folder(tmp_path)):
    done = subprocess.run(
      [python, of_case / 'exported.py', 'run', of_case, '--tolerance=1e-5'],
      capture_output=True,
      text=True,
      env=environment,
      cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ': ok, compiled in' in done.stdout
  assert 'jax 0.4.23' not in done.stdout


def lstm_folder(tmp_path):
  with local():
    process, data = cases.lstm_averaging(np.random.default_rng(0))
    arguments = [process.initialize(), data]
  execution.export_programs(process.next, arguments, tmp_path / 'lstm')
  return tmp_path / 'lstm'


def int_folder(tmp_path):
  execution.export_programs(cases.sum_of_all, [[[2**40] * 20]], tmp_path / 'int')
  return tmp_path / 'int'
