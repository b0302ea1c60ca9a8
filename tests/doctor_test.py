"""Tests of `tff_lowrank.doctor`."""

import pathlib
import sys
import time
import tomllib

import psutil
import pytest

from tff_lowrank import doctor

PYPROJECT = pathlib.Path(__file__).resolve().parents[1] / 'pyproject.toml'
RIGHT = {
  'tensorflow-federated': '0.87.0',
  'tensorflow': '2.14.1',
  'jax': '0.4.23',
  'jaxlib': '0.4.23',
  'numpy': '1.25.2',
  'setuptools': '80.9.0',
  'pyarrow': '21.0.0',
  'importlib-resources': '7.1.0',
  'protobuf': '4.25.9',
}
# Starts a process in its session and one outside it, and hangs.
HANGING = """
import subprocess, sys, time
command = [sys.executable, '-c', 'import time; time.sleep(600)']
for new_session in (False, True):
  print(subprocess.Popen(command, start_new_session=new_session).pid, flush=True)
time.sleep(600)
"""
# Ends, and leaves a process behind.
LEAVING = """
import subprocess, sys
print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)
"""


def is_running(pid):
  """Whether a process is there, waiting half a minute for its end."""
  for _ in range(300):
    try:
      if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
        return False
    except psutil.NoSuchProcess:
      return False
    time.sleep(0.1)
  return True


def levels(findings):
  return {finding.name: finding.level for finding in findings}


@pytest.mark.parametrize('version', [(3, 11, 7), (3, 11, 0)])
def test_python_that_fits(version):
  assert doctor.check_python(version).level == doctor.OK


@pytest.mark.parametrize('version', [(3, 10, 1), (3, 12, 0), (4, 11, 0)])
def test_python_that_does_not_fit(version):
  finding = doctor.check_python(version)
  assert finding.level == doctor.PROBLEM
  assert '3.11' in finding.advice


def test_versions_that_fit():
  assert levels(doctor.check_versions(RIGHT)) == dict.fromkeys(RIGHT, doctor.OK)


def test_local_version_of_jaxlib_fits():
  findings = doctor.check_versions({**RIGHT, 'jaxlib': '0.4.23+cuda12.cudnn89'})
  assert levels(findings) == dict.fromkeys(RIGHT, doctor.OK)


@pytest.mark.parametrize(
  ('package', 'version'),
  [
    ('tensorflow-federated', '0.88.0'),
    ('tensorflow', '2.15.0'),
    ('jax', '0.4.24'),
    ('jaxlib', '0.4.14'),
    ('numpy', '2.0.0'),
    ('setuptools', '81.0.0'),
    ('pyarrow', '20.0.0'),
    ('protobuf', '5.0.0'),
    ('jax-cuda12-plugin', '0.4.24'),
  ],
)
def test_version_that_does_not_fit(package, version):
  wrong = [f for f in doctor.check_versions({**RIGHT, package: version}) if f.level != doctor.OK]
  assert levels(wrong) == {package: doctor.PROBLEM}
  assert wrong[0].found == version
  assert f"pip install '{package}" in wrong[0].advice


def test_package_that_is_missing():
  versions = {name: version for name, version in RIGHT.items() if name != 'numpy'}
  (missing,) = [f for f in doctor.check_versions(versions) if f.level != doctor.OK]
  assert (missing.name, missing.found) == ('numpy', 'not installed')


def test_versions_are_those_of_pyproject():
  from packaging import requirements

  project = tomllib.loads(PYPROJECT.read_text())
  texts = project['project']['dependencies'] + project['tool']['uv']['override-dependencies']
  texts += project['project']['optional-dependencies']['gpu']
  named = {r.name: r.specifier for r in map(requirements.Requirement, texts)}
  for package, (fitting, _) in doctor.REQUIRED.items():
    if package in named:
      assert requirements.SpecifierSet(fitting) == named[package], package


def test_import_that_fails_is_a_problem(tmp_path, monkeypatch):
  (tmp_path / 'broken_package.py').write_text('raise RuntimeError("no such symbol")')
  monkeypatch.syspath_prepend(tmp_path)
  finding = doctor.check_import('broken_package')
  assert finding.level == doctor.PROBLEM
  assert 'no such symbol' in finding.found


def test_driver_without_gpu_says_what_to_install(monkeypatch):
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  monkeypatch.setattr(doctor, 'installed_versions', dict)
  monkeypatch.setattr('tff_lowrank.execution.native.xla_devices', lambda kind: [])
  finding = doctor.check_gpus(has_driver=True)
  assert finding.level == doctor.WARNING
  assert "pip install 'tff-lowrank[gpu]'" in finding.advice
  assert doctor.check_gpus(has_driver=False).level == doctor.OK


@pytest.mark.parametrize('plugins', [False, True])
def test_an_old_driver_is_a_problem_where_gpus_are_meant_to_be_used(monkeypatch, plugins):
  versions = dict.fromkeys(doctor.GPU_PLUGINS, '0.4.23') if plugins else {}
  monkeypatch.setattr(doctor, 'installed_versions', lambda: versions)
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')
  found = doctor.check_nvidia(lambda command: (0, 'NVIDIA A100, 470.57.02, 40536, 0, 8.0'))
  assert found[0].level == (doctor.PROBLEM if plugins else doctor.WARNING)
  assert '470.57.02' in found[0].found
  assert found[1].level == doctor.OK and 'compute capability 8.0' in found[1].found
  assert [f.name for f in found[2:]] == (['CUDA libraries'] if plugins else [])


def test_no_driver_is_no_line(monkeypatch):
  monkeypatch.setattr('tff_lowrank.nvidia.has_card', lambda: False)
  assert doctor.check_nvidia(lambda command: (127, '')) == []


def test_arithmetic_is_tried_where_gpus_are_not_hidden(monkeypatch):
  monkeypatch.setattr(
    doctor, 'installed_versions', lambda: dict.fromkeys(doctor.GPU_PLUGINS, '0.4.23')
  )
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  found = doctor.check_nvidia(lambda command: (0, 'NVIDIA A100, 535.104.05, 40536, 0, 8.0'))
  assert [f.name for f in found[2:]] == ['CUDA libraries', 'arithmetic on GPUs']
  # The plug-in is not there.
  assert all(f.level == doctor.PROBLEM and f.advice for f in found[2:])


def test_memory_that_runs_out_in_the_round_is_named(monkeypatch, capsys):
  def fail():
    raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate')

  for name in ('check_round', 'check_tensorflow_devices', 'check_stock_runtime'):
    monkeypatch.setattr(doctor, name, fail)
  assert doctor.main() == 1
  out = capsys.readouterr().out
  assert 'PROBLEM  federated averaging: out of memory: RuntimeError' in out
  assert 'max_clients_in_flight' in out


def test_round_must_run_on_the_gpu_that_there_is():
  cpu, gpu = doctor.Placement('CPU:0', 'TensorFlow', 'strings'), doctor.Placement('GPU:0', 'XLA')
  assert doctor.judge_round([cpu], [2.0, 1.0], has_gpu=False).level == doctor.OK
  assert doctor.judge_round([gpu], [2.0, 1.0], has_gpu=True).level == doctor.OK
  flagged = doctor.judge_round([gpu, cpu], [2.0, 1.0], has_gpu=True)
  assert flagged.level == doctor.PROBLEM
  assert 'TensorFlow on CPU:0 (strings)' in flagged.found


@pytest.mark.parametrize('losses', [(1.0, 1.0), (1.0, float('nan'))])
def test_round_must_learn(losses):
  ran = [doctor.Placement('CPU:0', 'XLA')]
  assert doctor.judge_round(ran, losses, has_gpu=False).level == doctor.PROBLEM


def test_deadline_ends_a_hanging_child_and_all_that_it_started():
  start = time.monotonic()
  status, output = doctor.run_with_deadline([sys.executable, '-c', HANGING], 10.0)
  assert status is None
  assert time.monotonic() - start < 100
  started = [int(line) for line in output.split()]
  assert len(started) == 2
  assert not any(map(is_running, started))


def test_deadline_ends_what_a_child_leaves_behind():
  status, output = doctor.run_with_deadline([sys.executable, '-c', LEAVING], 60.0)
  assert status == 0
  assert not is_running(int(output))


def test_stock_runtime_that_hangs_or_fails():
  hanging = doctor.check_stock_runtime(
    3.0, 'import time; print("loaded", flush=True); time.sleep(60)'
  )
  assert (hanging.level, hanging.found) == (doctor.WARNING, 'no answer in 3 s')
  assert 'set_local_context' in hanging.advice
  failing = doctor.check_stock_runtime(60.0, 'raise ValueError("no worker")')
  assert failing.level == doctor.WARNING
  assert 'status 1: ValueError: no worker' in failing.found


def test_stock_runtime_behind_a_proxy(monkeypatch):
  monkeypatch.setenv('http_proxy', 'http://localhost:9')
  assert 'no_proxy=localhost' in doctor.check_stock_runtime(60.0, 'raise ValueError').advice


def test_check_that_cannot_be_made_is_a_problem(monkeypatch, capsys):
  def fail():
    raise RuntimeError('no such device')

  for name in ('check_round', 'check_tensorflow_devices', 'check_stock_runtime'):
    monkeypatch.setattr(doctor, name, fail)
  assert doctor.main() == 1
  assert capsys.readouterr().out.count('RuntimeError: no such device') == 3


def test_all_is_well_here(monkeypatch, capsys):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
  before = set(psutil.Process().children())
  status = doctor.main()
  out = capsys.readouterr().out
  assert doctor.PROBLEM not in out
  assert status == 0
  assert 'ok       federated averaging: XLA on CPU:0; loss' in out
  assert "TFF's stock runtime" in out
  assert set(psutil.Process().children()) <= before
