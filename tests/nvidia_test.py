"""Tests of `tff_lowrank.nvidia`, with answers of nvidia-smi and of libraries as they are."""

import subprocess
import sys

import pytest

from tff_lowrank import findings
from tff_lowrank import nvidia

H100 = 'NVIDIA H100 80GB HBM3, 535.104.05, 81559, 3, 9.0'
FOUND = {
  'cublas_build_version': 120205,
  'cublas_get_version': 120903,
  'cuda_driver_get_version': 12020,
  'cuda_runtime_build_version': 12020,
  'cuda_runtime_get_version': 12090,
  'cudnn_build_version': 8904,
  'cudnn_get_version': 8907,
  'cufft_build_version': 11008,
  'cufft_get_version': 11401,
  'cusolver_build_version': 11502,
  'cusolver_get_version': 11705,
  'cusparse_build_version': 12102,
  'cusparse_get_version': 12510,
  'ptxas': '/nvidia/cuda_nvcc/bin/ptxas',
}


def smi(status, output):
  return lambda command: (status, output)


def levels(found):
  return [finding.level for finding in found]


def run(code):
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  return done.returncode, done.stdout + done.stderr


def test_driver_and_cards():
  driver, first, second = nvidia.check_driver(smi(0, f'{H100}\n{H100}'))
  assert levels([driver, first, second]) == [findings.OK] * 3
  assert driver.found == '535.104.05'
  assert first.name == 'NVIDIA GPU 0' and second.name == 'NVIDIA GPU 1'
  assert first.found == ('NVIDIA H100 80GB HBM3, compute capability 9.0, 3 of 81559 MiB used')


@pytest.mark.parametrize(
  ['version', 'level'],
  [('525.60.13', findings.OK), ('525.60.11', findings.PROBLEM), ('470.182.03', findings.PROBLEM)],
)
def test_driver_that_is_too_old(version, level):
  driver, _ = nvidia.check_driver(smi(0, H100.replace('535.104.05', version)))
  assert driver.level == level
  if level != findings.OK:
    assert 'too old for CUDA 12' in driver.found and '525.60.13' in driver.advice


def test_nvidia_smi_that_does_not_know_compute_capabilities():
  def old(command):
    if 'compute_cap' in command[1]:
      return 2, 'Field "compute_cap" is not a valid field to query.'
    return 0, 'Tesla K80, 450.51.06, 11441, 0'

  driver, card = nvidia.check_driver(old)
  assert driver.level == findings.PROBLEM and '450.51.06' in driver.found
  assert 'compute capability unknown' in card.found


@pytest.mark.parametrize(
  ['capability', 'level', 'advice'],
  [
    ('3.7', findings.PROBLEM, 'does not support it'),
    ('5.2', findings.OK, ''),
    ('8.9', findings.OK, ''),
    ('12.0', findings.WARNING, 'export_programs'),
  ],
)
def test_compute_capabilities(capability, level, advice):
  _, card = nvidia.check_driver(smi(0, H100[:-3] + capability))
  assert card.level == level and advice in card.advice
  assert f'compute capability {capability}' in card.found


def test_memory_that_others_use():
  _, card = nvidia.check_driver(smi(0, 'NVIDIA T4, 535.104.05, 15360, 15000, 7.5'))
  assert card.level == findings.WARNING
  assert '15000 of 15360 MiB used' in card.found and 'Other processes use its memory' in card.advice


def test_no_driver():
  assert nvidia.check_driver(smi(127, ''), in_machine=False) == []
  (missing,) = nvidia.check_driver(smi(127, ''), in_machine=True)
  assert missing.level == findings.WARNING
  assert 'although there is an NVIDIA GPU' in missing.found
  assert 'Install a driver of version 525.60.13' in missing.advice


@pytest.mark.parametrize(
  ['status', 'output', 'found', 'advice'],
  [
    (
      9,
      "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure",
      'nvidia-smi fails',
      'modprobe nvidia',
    ),
    (
      18,
      'Failed to initialize NVML: Driver/library version mismatch',
      'version mismatch',
      'restart the machine',
    ),
    (6, 'No devices were found', 'No devices', 'not running'),
    (None, '', 'does not answer', 'Install a driver'),
    (0, '', 'sees no GPU', 'docker run --gpus all'),
  ],
)
def test_drivers_that_do_not_work(status, output, found, advice):
  (finding,) = nvidia.check_driver(smi(status, output))
  assert finding.level == findings.WARNING
  assert found in finding.found and advice in finding.advice


def test_command_that_is_not_there_or_fails():
  assert nvidia.run_command(['no-such-command-here']) == (127, '')
  status, output = nvidia.run_command([sys.executable, '-c', 'print("x"); raise SystemExit(3)'])
  assert (status, output) == (3, 'x')


def test_card_without_a_driver_is_seen_on_the_bus(tmp_path):
  def add(name, vendor, kind):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'vendor').write_text(f'{vendor}\n')
    (tmp_path / name / 'class').write_text(f'{kind}\n')

  assert not nvidia.has_card(tmp_path)
  add('0000:00:01.0', '0x8086', '0x030000')  # Another maker's display.
  add('0000:00:02.0', '0x10de', '0x040300')  # NVIDIA's sound.
  assert not nvidia.has_card(tmp_path)
  add('0000:00:03.0', '0x10de', '0x030200')
  assert nvidia.has_card(tmp_path)


def test_versions_of_libraries():
  finding = nvidia.judge_libraries(FOUND)
  assert finding.level == findings.OK
  assert finding.found == (
    'driver for CUDA 12.2, cuda_runtime 12.9.0, cudnn 8.9.7, cublas 12.9.3, cufft 11.4.1, '
    'cusolver 11.7.5, cusparse 12.5.10'
  )


@pytest.mark.parametrize(
  ['library', 'package'],
  [('cudnn', 'nvidia-cudnn-cu12'), ('cublas', 'nvidia-cublas-cu12')],
)
def test_library_that_is_not_found(library, package):
  found = {k: v for k, v in FOUND.items() if k != f'{library}_get_version'}
  finding = nvidia.judge_libraries(found)
  assert finding.level == findings.PROBLEM
  assert f'not found: {library}' in finding.found and f"'{package}'" in finding.advice


def test_ptxas_that_is_not_found():
  finding = nvidia.judge_libraries(FOUND | dict(ptxas=None))
  assert finding.level == findings.PROBLEM
  assert 'not found: ptxas' in finding.found and 'nvidia-cuda-nvcc-cu12' in finding.advice


@pytest.mark.parametrize(
  ['version', 'said'],
  [(8600, 'cudnn before 8.9.4'), (90100, 'cudnn that is not 8')],
)
def test_cudnn_of_another_version(version, said):
  finding = nvidia.judge_libraries(FOUND | dict(cudnn_get_version=version))
  assert finding.level == findings.PROBLEM
  assert said in finding.found and 'nvidia-cudnn-cu12' in finding.advice


def fake_plug_in(folder, **versions):
  """A plug-in whose functions return a number, raise, or end the process."""
  package = folder / 'jax_cuda12_plugin'
  package.mkdir()
  (package / '__init__.py').touch()
  bodies = {int: 'return {}', str: 'raise RuntimeError({!r})', type(None): 'import os; os.abort()'}
  (package / '_versions.py').write_text(
    '\n'.join(f'def {k}(): {bodies[type(v)].format(v)}' for k, v in versions.items())
  )


def test_libraries_are_asked_each_by_itself(tmp_path, monkeypatch):
  broken = FOUND | dict(cudnn_get_version='cuDNN not found.', cusparse_get_version=None)
  fake_plug_in(tmp_path, **{k: v for k, v in broken.items() if k != 'ptxas'})
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  (tmp_path / 'nvidia' / 'cuda_nvcc' / 'bin').mkdir(parents=True)
  (tmp_path / 'nvidia' / 'cuda_nvcc' / 'bin' / 'ptxas').touch()
  finding = nvidia.check_libraries(run)
  assert finding.level == findings.PROBLEM
  assert 'cublas 12.9.3' in finding.found
  assert finding.found.endswith('not found: cudnn, cusparse')


def test_plug_in_that_is_not_there(tmp_path, monkeypatch):
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  finding = nvidia.check_libraries(run)
  assert finding.level == findings.PROBLEM
  assert "No module named 'jax_cuda12_plugin'" in finding.found
  assert "pip install 'tff-lowrank[gpu]'" in finding.advice


@pytest.mark.parametrize(
  ['error', 'name', 'advice'],
  [
    (
      'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.',
      'out of memory',
      'max_clients_in_flight',
    ),
    ('CUDA_ERROR_OUT_OF_MEMORY: out of memory', 'out of memory', 'nvidia-smi'),
    (
      'Could not create cudnn handle: CUDNN_STATUS_NOT_INITIALIZED\n'
      'Possibly insufficient driver version: 470.182.3',
      'the driver is too old',
      '525.60.13',
    ),
    (
      'CUDA driver version is insufficient for CUDA runtime version',
      'the driver is too old',
      '525.60.13',
    ),
    (
      'FAILED_PRECONDITION: DNN library initialization failed. Look at the errors above',
      'a library was not found',
      'tff-lowrank[gpu]',
    ),
    (
      "Could not load dynamic library 'libcublas.so.12'; dlerror: libcublas.so.12: cannot open",
      'a library was not found',
      'tff-lowrank[gpu]',
    ),
    ("Can't find ptxas binary.", 'a library was not found', 'tff-lowrank[gpu]'),
    (
      'no kernel image is available for execution on the device',
      'this GPU is not supported',
      '5.2 to 9.0',
    ),
    (
      "Unable to initialize backend 'cuda': FAILED_PRECONDITION: No visible GPU devices.",
      'no GPU is visible',
      'CUDA_VISIBLE_DEVICES',
    ),
  ],
)
def test_usual_faults_are_told_apart(error, name, advice):
  found, what_to_do = nvidia.fault(error)
  assert found == name and advice in what_to_do


def test_other_errors_are_no_usual_fault():
  assert nvidia.fault('ValueError: `devices` must name some of CPU:0') is None


def test_arithmetic_on_each_gpu():
  output = 'noise\ncomputed 0 NVIDIA H100 151.2\ncomputed 1 NVIDIA H100 151.2'
  finding = nvidia.check_arithmetic(lambda code: (0, output))
  assert (finding.level, finding.found) == (findings.OK, 'GPU:0 NVIDIA H100; GPU:1 NVIDIA H100')


@pytest.mark.parametrize(
  ['status', 'output', 'found'],
  [
    (1, 'RuntimeError: RESOURCE_EXHAUSTED: Out of memory', 'status 1: out of memory: RuntimeError'),
    (-6, 'cuda_dnn.cc: Loaded libcudnn.so.9', 'status -6: a library was not found'),
    (None, 'computed 0 NVIDIA H100 151.2', 'does not end'),
    (0, '', 'no output'),
  ],
)
def test_arithmetic_that_fails(status, output, found):
  finding = nvidia.check_arithmetic(lambda code: (status, output))
  assert finding.level == findings.PROBLEM and found in finding.found and finding.advice


def test_arithmetic_runs_on_a_device(monkeypatch):
  """The same program, with this machine's CPU in place of a GPU."""
  code = nvidia.ARITHMETIC_PROBE.replace("'gpu'", "'cpu'")
  finding = nvidia.check_arithmetic(lambda _: run(code))
  assert (finding.level, finding.found) == (findings.OK, 'GPU:0 cpu')


def test_no_gpu_can_be_seen_here(monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  finding = nvidia.check_arithmetic(run)
  assert finding.level == findings.PROBLEM and 'no GPU is visible' in finding.found
