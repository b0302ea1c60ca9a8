"""Tests of `tff_lowrank.exported`, of what needs no export."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tff_lowrank import exported


def entry(name, shape, dtype, **others):
  return dict(name=name, shape=list(shape), dtype=dtype) | others


def write(folder, arguments, results, arrays, **manifest):
  """A folder with one program, whose artifact is no program."""
  program = dict(name='p', file='p.mlirbc', arguments=arguments, results=results)
  (folder / 'p.mlirbc').write_bytes(b'nothing')
  np.savez(folder / 'p.npz', **arrays)
  manifest = dict(format=exported.FORMAT, programs=[program]) | manifest
  (folder / exported.MANIFEST).write_text(json.dumps(manifest))
  (loaded,) = exported.load(folder)
  return loaded


@pytest.mark.parametrize(
  ['dtype', 'low', 'high'],
  [('float32', -0.25, 0.5), ('float64', 1e-3, 2e-3), ('float16', -1.0, 1.0), ('int32', -3, 9)],
)
def test_random_arrays_fill_their_range(dtype, low, high):
  array = exported.generate(dict(seed=3, low=low, high=high), (50, 40), dtype)
  assert (array.shape, array.dtype) == ((50, 40), dtype)
  assert low <= array.min() and array.max() <= high
  assert abs(array.mean() - (low + high) / 2) < 0.05 * (high - low)
  assert len(np.unique(array)) > 8
  again = exported.generate(dict(seed=3, low=low, high=high), (50, 40), dtype)
  assert exported.checksum(array) == exported.checksum(again)
  other = exported.generate(dict(seed=4, low=low, high=high), (50, 40), dtype)
  assert exported.checksum(array) != exported.checksum(other)


def test_random_flags_are_as_often_true():
  flags = exported.generate(dict(seed=0, low=0.0, high=0.2), (10_000,), 'bool')
  assert flags.dtype == bool and abs(flags.mean() - 0.2) < 0.02


def test_generators_of_numpy_as_when_this_was_written():
  array = exported.generate(dict(seed=0, low=0.0, high=1.0), (4,), 'float32')
  np.testing.assert_allclose(array, [0.85062, 0.63696, 0.51114, 0.26979], atol=1e-5)


def test_other_random_numbers_are_refused(tmp_path):
  random = dict(seed=0, low=0.0, high=1.0)
  made = exported.checksum(exported.generate(random, (5,), 'float32'))
  right = write(
    tmp_path, [entry('a', (5,), 'float32', random=random | dict(checksum=made))], [], {}
  )
  assert right.arguments()[0].shape == (5,)
  wrong = write(
    tmp_path, [entry('a', (5,), 'float32', random=random | dict(checksum=made + 1))], [], {}
  )
  with pytest.raises(ValueError, match="a differs here: NumPy's random generators differ"):
    wrong.arguments()


def test_missing_inputs_and_results_are_named(tmp_path):
  result = entry('result000', (2,), 'float32', sketched=False)
  program = write(tmp_path, [entry('argument000', (2,), 'float32')], [result], {})
  with pytest.raises(ValueError, match='no input for argument000'):
    program.arguments()
  with pytest.raises(ValueError, match='no results of p'):
    program.differences([np.zeros(2, np.float32)])


def test_sketch_estimates_a_distance(rng):
  a, b = rng.standard_normal((2, 300, 200))
  want = np.linalg.norm(a - b)
  estimate = np.linalg.norm(exported.sketch(a) - exported.sketch(b))
  assert abs(estimate / want - 1) < 0.15
  numbers = rng.integers(-(2**31), 2**31, 5000)
  changed = numbers.copy()
  changed[77] += 1
  assert np.abs(exported.sketch(numbers) - exported.sketch(changed)).sum() == 1


def test_differences_are_relative_to_the_norm(tmp_path, rng):
  long, short = rng.standard_normal((100, 100)).astype(np.float32), np.float32([3.0, 4.0])
  counts, none = np.int64([1, 2**40]), np.zeros((0, 3), np.float32)
  results = [
    entry('long', long.shape, 'float32', sketched=True),
    entry('short', (2,), 'float32', sketched=False),
    entry('counts', (2,), 'int64', sketched=False),
    entry('none', none.shape, 'float32', sketched=False),
  ]
  arrays = dict(long=exported.sketch(long), short=short, counts=counts, none=none)
  program = write(tmp_path, [], results, arrays)
  assert program.differences([long, short, counts, none]) == [0.0, 0.0, 0.0, 0.0]
  off = program.differences([1.01 * long, short + np.float32([0.05, 0]), counts + 1, none])
  np.testing.assert_allclose(off, [0.01, 0.01, 1.0, 0.0], rtol=1e-3)
  assert np.isnan(program.differences([np.nan * long, short, counts, none])[0])


def test_bfloat16_keeps_its_numbers(tmp_path):
  import jax.numpy as jnp

  array = np.asarray(jnp.arange(6, dtype=jnp.bfloat16) / 3)
  stored = exported.as_stored(array)
  result = entry('r', (6,), 'bfloat16', sketched=False)
  program = write(tmp_path, [entry('a', (6,), 'bfloat16')], [result], dict(a=stored, r=stored))
  (back,) = program.arguments()
  assert back.dtype == array.dtype and back.tobytes() == array.tobytes()
  assert program.differences([array]) == [0.0]
  assert program.differences([2 * array])[0] == pytest.approx(1.0)


def test_folder_that_is_none(tmp_path):
  with pytest.raises(ValueError, match='manifest.json'):
    exported.load(tmp_path)
  write(tmp_path, [], [], {})
  (tmp_path / exported.MANIFEST).write_text(json.dumps(dict(format=99, programs=[])))
  with pytest.raises(ValueError, match='of format 1, found 99'):
    exported.load(tmp_path)


def test_program_that_does_not_compile_fails(tmp_path, capsys):
  write(tmp_path, [], [], {})
  assert exported.main(['run', str(tmp_path), '--device=cpu']) == 1
  assert 'p: FAILED' in capsys.readouterr().out


def test_needs_numpy_and_jax_alone():
  code = """
import sys
import tff_lowrank.exported
loaded = {name.split('.')[0] for name in sys.modules}
assert not loaded & {'tensorflow', 'tensorflow_federated', 'absl', 'pandas', 'scipy'}, loaded
"""
  root = pathlib.Path(__file__).resolve().parents[1]
  subprocess.run([sys.executable, '-c', code], cwd=root, check=True)


@pytest.mark.parametrize('where', ['cuda_nvcc', 'cu13', 'CUDA_ROOT', 'nowhere'])
def test_ptxas_of_the_nvidia_packages_is_found(tmp_path, monkeypatch, where):
  import types

  import jaxlib

  monkeypatch.delenv('CUDA_ROOT', raising=False)
  monkeypatch.setattr(jaxlib, '__file__', str(tmp_path / 'jaxlib' / '__init__.py'))
  folders = {name: tmp_path / 'nvidia' / name for name in ('cuda_nvcc', 'cu13')}
  folders['CUDA_ROOT'] = tmp_path / 'toolkit'
  if where in folders:
    (folders[where] / 'bin').mkdir(parents=True)
    (folders[where] / 'bin' / 'ptxas').touch()
  if where == 'CUDA_ROOT':
    monkeypatch.setenv('CUDA_ROOT', str(folders[where]))
  found = {}
  for platform in ('cpu', 'cuda'):
    options = exported.compile_options(types.SimpleNamespace(platform=platform))
    found[platform] = options.executable_build_options.debug_options.xla_gpu_cuda_data_dir
  without = exported.compile_options(types.SimpleNamespace(platform='cpu'))
  default = without.executable_build_options.debug_options.xla_gpu_cuda_data_dir
  assert found['cpu'] == default
  assert found['cuda'] == (str(folders[where]) if where in folders else default)
