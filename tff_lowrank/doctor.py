"""Checks the installation: versions, devices, a small round, and TFF's stock runtime.

  python -m tff_lowrank.doctor

Prints one line per check, with advice if there is a problem. The exit status is 1 if there is a
PROBLEM. Packages are imported by the checks themselves, so that a broken package is reported.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import importlib
import importlib.metadata
import os
import signal
import subprocess
import sys
import tempfile
from typing import Any
import warnings

from tff_lowrank import findings
from tff_lowrank import nvidia
from tff_lowrank.findings import Finding

OK, WARNING, PROBLEM = findings.OK, findings.WARNING, findings.PROBLEM

# Package -> the supported versions, and the reason. As in pyproject.toml if it names the package.
REQUIRED = {
  'tensorflow-federated': ('==0.87.0', 'tff_lowrank supports only this version'),
  'tensorflow': ('>=2.14,<2.15', 'TensorFlow Federated 0.87.0 needs it'),
  'jax': ('==0.4.23', 'later versions cannot read programs from TensorFlow 2.14'),
  'jaxlib': ('==0.4.23', 'it must be of the version of jax'),
  'numpy': ('>=1.25,<1.26', 'TensorFlow Federated 0.87.0 needs it'),
  'setuptools': ('<81', 'tensorboard 2.14 imports pkg_resources'),
  'pyarrow': ('>=21,<26', 'other versions do not work with this numpy'),
  'importlib-resources': ('>=5.12', 'tensorflow-datasets imports it'),
  'protobuf': ('>=4.25.2,<5', 'TensorFlow 2.14 and tensorflow-metadata need it'),
  'jax-cuda12-plugin': ('==0.4.23', 'it must be of the version of jax'),
  'jax-cuda12-pjrt': ('==0.4.23', 'it must be of the version of jax'),
}
GPU_PLUGINS = {'jax-cuda12-plugin', 'jax-cuda12-pjrt'}

_REPORT = 'Please report this, with these lines.'
_STOCK_PROBE = """
import numpy as np
import tensorflow_federated as tff
from tff_lowrank import execution

total = tff.federated_computation(tff.federated_sum, tff.FederatedType(np.int32, tff.CLIENTS))
print('loaded', flush=True)
with execution.stock_context():
  assert total([1, 2]) == 3
"""


@dataclasses.dataclass(frozen=True)
class Placement:
  """Device and engine of the clients' training loops; `reason`: why not XLA, or not optimal."""

  device: str
  engine: str
  reason: str = ''

  def __str__(self) -> str:
    return f'{self.engine} on {self.device}' + (f' ({self.reason})' if self.reason else '')


def check_python(version: tuple[Any, ...]) -> Finding:
  found = '.'.join(map(str, version[:3]))
  if tuple(version[:2]) == (3, 11):
    return Finding('Python', OK, found)
  return Finding('Python', PROBLEM, found, 'Use 3.11: TensorFlow Federated 0.87.0 needs it.')


def installed_versions() -> dict[str, str]:
  """Package -> its version, for the relevant packages that are installed."""
  versions = {}
  for package in REQUIRED:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[package] = importlib.metadata.version(package)
  return versions


def check_versions(versions: Mapping[str, str]) -> list[Finding]:
  """Compares versions with the supported ones; the GPU plug-ins may be absent."""
  from packaging import specifiers

  findings = []
  for package, (fitting, why) in REQUIRED.items():
    found = versions.get(package)
    if not found and package in GPU_PLUGINS:
      continue
    if found and specifiers.SpecifierSet(fitting).contains(found, prereleases=True):
      findings.append(Finding(package, OK, found))
    else:
      advice = f"Run pip install '{package}{fitting}': {why}."
      findings.append(Finding(package, PROBLEM, found or 'not installed', advice))
  return findings


def check_import(module: str) -> Finding:
  """Checks that a package can be imported."""
  try:
    importlib.import_module(module)
  except Exception as e:
    advice = 'Reinstall tff-lowrank in a new environment.'
    return Finding(f'import {module}', PROBLEM, _error(e), advice)
  return Finding(f'import {module}', OK, 'loads')


def check_tensorflow_devices() -> Finding:
  import tensorflow as tf

  names = [d.name.removeprefix('/physical_device:') for d in tf.config.list_physical_devices()]
  return Finding("TensorFlow's devices", OK, ', '.join(names))


def check_gpus(has_driver: bool) -> Finding:
  """Checks jaxlib's GPUs, on which rounds run; none is a problem only if there is a driver."""
  from tff_lowrank.execution import native

  name, found = "jaxlib's GPUs", 'none, though there is an NVIDIA driver'
  gpus = native.xla_devices('gpu')
  if gpus:
    return Finding(name, OK, ', '.join(f'GPU:{i} {d.device_kind}' for i, d in enumerate(gpus)))
  if not has_driver:
    return Finding(name, OK, 'none, and no NVIDIA driver: rounds run on the CPU')
  if are_gpus_hidden():
    return Finding(name, WARNING, found, 'Unset CUDA_VISIBLE_DEVICES, which hides all GPUs.')
  if not GPU_PLUGINS <= installed_versions().keys():
    return Finding(name, WARNING, found, "Run pip install 'tff-lowrank[gpu]' to use the GPU.")
  return Finding(
    name, WARNING, found, 'See the lines on NVIDIA, CUDA and arithmetic for the reason.'
  )


def are_gpus_hidden() -> bool:
  return os.environ.get('CUDA_VISIBLE_DEVICES', '0') in ('', '-1')


def check_nvidia(run: nvidia.Run | None = None) -> list[Finding]:
  """Checks the driver, the GPUs and, if the GPU plug-ins are installed, their libraries.

  Without the plug-ins nothing is a problem: rounds run on the CPU.
  """
  run = nvidia.run_command if run is None else run
  has_plugins = GPU_PLUGINS <= installed_versions().keys()
  found = nvidia.check_driver(run)
  if not has_plugins:
    return [dataclasses.replace(f, level=WARNING) if f.level == PROBLEM else f for f in found]
  probe = lambda code: run_with_deadline([sys.executable, '-c', code], 180.0)  # noqa: E731
  if found:
    found.append(nvidia.check_libraries(probe))
    if not are_gpus_hidden():
      found.append(nvidia.check_arithmetic(probe))
  return found


def placements(context: Any, computation: Any) -> list[Placement]:
  """The placements of clients' loops in a computation that a local context has run."""
  result = []
  for stage in context.plan(computation).stages:
    steps = [*stage.clients, *(a.value for a in stage.aggregations)]
    if not any(loops for step in steps for graph in step.graphs for loops in graph.loops):
      continue
    for device in context.runner.devices:
      programs, reason = context.runner.engine(stage, device)
      if programs is not None and programs.num_programs:
        one_by_one = programs.failure_batched
        reason = f'one client after the other: {one_by_one}' if one_by_one else ''
        result.append(Placement(device.name, 'XLA', reason))
      else:
        reason = reason or programs.failure or 'too little work for XLA'
        name = device.tensorflow.removeprefix('/device:')
        result.append(Placement(name, 'TensorFlow', reason))
  return result


def check_round() -> Finding:
  """Runs two small rounds of federated averaging, and reports where they ran."""
  import numpy as np
  import tensorflow as tf
  import tensorflow_federated as tff

  from tff_lowrank import execution
  from tff_lowrank.execution import native

  gpus = [f'GPU:{i}' for i in range(len(native.xla_devices('gpu')))]
  x = np.random.default_rng(0).standard_normal((4, 64, 4)).astype(np.float32)
  y = (x[..., 0] > 0).astype(np.int32)
  datasets = [tf.data.Dataset.from_tensor_slices(xy).batch(2) for xy in zip(x, y, strict=True)]
  model = tff.learning.models.functional_model_from_keras(
    tf.keras.Sequential([tf.keras.layers.InputLayer((4,)), tf.keras.layers.Dense(2)]),
    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    datasets[0].element_spec,
    collections.OrderedDict(
      loss=lambda: tf.keras.metrics.SparseCategoricalCrossentropy(from_logits=True)
    ),
  )
  sgd = tff.learning.optimizers.build_sgdm
  process = tff.learning.algorithms.build_weighted_fed_avg(model, sgd(0.1), sgd(1.0))
  with execution.create_local_context(devices=gpus[:4] or None) as context:
    first = process.next(process.initialize(), datasets)
    second = process.next(first.state, datasets)
    ran = placements(context, process.next)
  losses = [float(out.metrics['client_work']['train']['loss']) for out in (first, second)]
  return judge_round(ran, losses, bool(gpus))


def judge_round(ran: Sequence[Placement], losses: Sequence[float], has_gpu: bool) -> Finding:
  """Checks that the loss fell over two rounds, and that the GPU was used if there is one."""
  name = 'federated averaging'
  found = f'{", ".join(map(str, ran))}; loss {losses[0]:.3f}, then {losses[1]:.3f}'
  if not losses[1] < losses[0]:
    return Finding(name, PROBLEM, found, f'The loss should fall. {_REPORT}')
  if has_gpu and not all(placement.device.startswith('GPU') for placement in ran):
    return Finding(name, PROBLEM, found, f'It did not run on the GPU. {_REPORT}')
  return Finding(name, OK, found)


def run_with_deadline(command: Sequence[str], seconds: float) -> tuple[int | None, str]:
  """Runs a command in its own session, then ends all processes that it started.

  Returns its exit status (None if it was still running after `seconds`) and its output.
  """
  import psutil

  with tempfile.TemporaryFile('w+', errors='replace') as output:
    child = subprocess.Popen(
      command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
    )
    started, status = set(), None
    try:
      with contextlib.suppress(subprocess.TimeoutExpired):
        status = child.wait(seconds)
    finally:
      if child.poll() is None:
        child.send_signal(signal.SIGSTOP)  # So that it cannot start more processes.
        started.update(psutil.Process(child.pid).children(recursive=True))
      for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
          # Processes that outlive their parent are still in the session.
          if process.pid != child.pid and (
            process in started or os.getsid(process.pid) == child.pid
          ):
            process.kill()
      child.kill()
      child.wait()
    output.seek(0)
    return status, output.read()


def check_stock_runtime(seconds: float = 60.0, probe: str = _STOCK_PROBE) -> Finding:
  """Checks that TFF's own worker process answers."""
  status, output = run_with_deadline([sys.executable, '-c', probe], seconds)
  if status == 0:
    return Finding("TFF's stock runtime", OK, 'answers')
  if status is None:
    found = f'no answer in {seconds:g} s' if 'loaded' in output else f'not loaded in {seconds:g} s'
  else:
    lines = output.split('Exception ignored')[0].strip().splitlines() or ['no output']
    found = f'fails with status {status}: {lines[-1][:200]}'
  advice = 'Use the local context, which needs no worker: execution.set_local_context().'
  if {'http_proxy', 'https_proxy', 'grpc_proxy'} & os.environ.keys():
    advice += ' Or set no_proxy=localhost, so that the connection does not use the proxy.'
  return Finding("TFF's stock runtime", WARNING, found, advice)


def _error(e: Exception) -> str:
  return ' '.join(f'{type(e).__name__}: {e}'.split())[:300]


def run_checks() -> Iterator[Finding]:
  """Runs all checks; a check that fails to run is a problem, too."""
  checks: dict[str, Callable[[], Iterable[Finding]]] = {
    'Python': lambda: [check_python(sys.version_info)],
    'versions': lambda: check_versions(installed_versions()),
    'imports': lambda: map(check_import, ('tensorflow', 'tensorflow_federated', 'jax')),
    "TensorFlow's devices": lambda: [check_tensorflow_devices()],
    'NVIDIA': check_nvidia,
    "jaxlib's GPUs": lambda: [check_gpus(nvidia.has_driver())],
    'federated averaging': lambda: [check_round()],
    "TFF's stock runtime": lambda: [check_stock_runtime()],
  }
  for name, check in checks.items():
    try:
      yield from check()
    except Exception as e:
      meaning = nvidia.fault(str(e))
      found = f'{meaning[0]}: {_error(e)}' if meaning else _error(e)
      advice = meaning[1] if meaning else 'Fix the problems above first.'
      yield Finding(name, PROBLEM, found, advice)


def main() -> int:
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  levels = []
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    for finding in run_checks():
      levels.append(finding.level)
      print(finding, flush=True)
  print(f'{levels.count(PROBLEM)} problems, {levels.count(WARNING)} warnings')
  return int(PROBLEM in levels)


if __name__ == '__main__':
  # Without absl's app.run: TensorFlow imported inside it cannot build Keras models.
  sys.exit(main())
