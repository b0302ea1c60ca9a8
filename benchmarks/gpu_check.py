"""Runs the workloads of `round_time` on each GPU and on the CPU, and compares them.

  python -m benchmarks.gpu_check --workloads=A,B,D --rounds=5

Prints where each round ran, the median seconds, the CPU's time relative to it, and the largest
difference between the model weights of a device and the CPU's after all rounds. Each device has its
own process, and they take turns. The others are compared with the first CPU named. The exit status
is 1 if something could not be run, or did not run on its device: a round that ran on the CPU
instead of a GPU is an error, and its times are not printed.
"""

from collections.abc import Callable, Collection, Sequence
import concurrent.futures
import inspect
import json
import multiprocessing
import os
import statistics
import time
from typing import Any

from absl import app
from absl import flags

from benchmarks import workloads

_NO_GPU = (
  'There is no GPU that jaxlib can use. With an NVIDIA driver installed, run pip install '
  "'tff-lowrank[gpu]', then python -m tff_lowrank.doctor."
)


def _list_devices() -> dict[str, str]:
  """Name -> kind, of the devices that a local context can use."""
  from tff_lowrank.execution import native

  kinds = {'CPU': native.xla_devices('cpu'), 'GPU': native.xla_devices('gpu')}
  return {
    f'{kind}:{i}': device.device_kind
    for kind, devices in kinds.items()
    for i, device in enumerate(devices)
  }


def _build(device: str, workload: str, compile_mode: str) -> tuple[Any, Callable[[], None]]:
  """A context on one device, and a function that runs a round of the workload in it."""
  import tensorflow as tf

  from tff_lowrank import execution

  tf.keras.utils.set_random_seed(0)
  context = execution.set_local_context(devices=[device], compile=compile_mode)
  return context, workloads.tff_round(workload)


def elsewhere(device: str, ran: Sequence[Any], platforms: Collection[str]) -> str:
  """The reason why rounds did not run on `device`, such as `'GPU:0'`; empty if they did.

  Args:
    device: The device on which they should run.
    ran: The `doctor.Placement`s of the clients' loops.
    platforms: The platforms of the devices with results of XLA programs.
  """
  wrong = [str(placement) for placement in ran if placement.device != device]
  if wrong:
    return f'it ran elsewhere: {", ".join(wrong)}'
  if device.startswith('CPU'):
    return ''
  if not ran or (any(placement.engine == 'XLA' for placement in ran) and not platforms):
    return 'no XLA program ran there'
  on_cpu = sorted(platform for platform in platforms if platform == 'cpu')
  return f'results of its programs lay on the {on_cpu[0]}' if on_cpu else ''


def _watch(platforms: set[str]) -> Callable[..., Any]:
  """An observer of program calls that records the platforms of the results."""

  def note(results: Sequence[Any]) -> None:
    platforms.update(device.platform for result in results for device in result.devices())

  return lambda program, arguments: note


def _serve(device: str, workload: str, compile_mode: str, pipe: Any) -> None:
  """Runs a round for each request, and sends its seconds; at the end sends the weights."""
  from tff_lowrank import doctor
  from tff_lowrank import nvidia
  from tff_lowrank.execution import native

  platforms: set[str] = set()
  try:
    context, run_round = _build(device, workload, compile_mode)
    native.call_observers.append(_watch(platforms))
    for _ in range(workloads.WARM_UP):
      run_round()
    native.call_observers.clear()
    process = inspect.getclosurevars(run_round).nonlocals['process']
    ran = doctor.placements(context, process.next)
    wrong = elsewhere(device, ran, platforms)
    pipe.send((not wrong, f'ERROR: {wrong}' if wrong else ', '.join(map(str, ran))))
  except Exception as e:
    meaning = nvidia.fault(str(e))
    found = f'{type(e).__name__}: {str(e)[:300]}'
    pipe.send((False, f'{meaning[0]}: {found}. {meaning[1]}' if meaning else found))
    return
  if wrong:
    return
  while pipe.recv():
    start = time.perf_counter()
    run_round()
    pipe.send(time.perf_counter() - start)
  state = inspect.getclosurevars(run_round).nonlocals['state']
  weights = process.get_model_weights(state)
  pipe.send([*weights.trainable, *weights.non_trainable])


class _Contender:
  """A device in its own process; `found` says where rounds run, or why they do not."""

  def __init__(self, device: str, workload: str, compile_mode: str):
    self.device = device
    self.seconds: list[float] = []
    self._pipe, theirs = multiprocessing.Pipe()
    self._process = multiprocessing.Process(
      target=_serve, args=(device, workload, compile_mode, theirs)
    )
    self._process.start()
    theirs.close()
    try:
      self.is_ready, self.found = self._pipe.recv()
    except EOFError:
      self.is_ready, self.found = False, 'the process died'

  def run_round(self) -> None:
    self._pipe.send(True)
    self.seconds.append(self._pipe.recv())

  def weights(self) -> list[Any]:
    """Ends the rounds, and returns the model's weights."""
    self._pipe.send(False)
    return self._pipe.recv()

  def close(self) -> None:
    self._process.kill()
    self._process.join()


def _difference(some: Sequence[Any], others: Sequence[Any]) -> float:
  """The largest absolute difference between arrays; NaN if any is NaN."""
  import numpy as np

  pairs = zip(some, others, strict=True)
  return float(np.max([np.max(np.abs(np.asarray(a) - np.asarray(b))) for a, b in pairs]))


def _measure(
  workload: str, devices: Sequence[str], rounds: int, compile_mode: str
) -> list[dict[str, Any]]:
  """One line per device; those that could not be run have no seconds."""
  contenders = []
  try:
    for device in devices:
      contenders.append(_Contender(device, workload, compile_mode))
    ready = [c for c in contenders if c.is_ready]
    for _ in range(rounds):
      for contender in ready:
        contender.run_round()
    weights = {c: c.weights() for c in ready}
  finally:
    for contender in contenders:
      contender.close()
  reference = next((c for c in ready if c.device.startswith('CPU')), None)
  lines = []
  for contender in contenders:
    line = dict(workload=workload, device=contender.device, found=contender.found)
    if contender in weights:
      line['median_seconds'] = statistics.median(contender.seconds)
      if reference is not None and contender is not reference:
        line['cpu_ratio'] = statistics.median(reference.seconds) / line['median_seconds']
        line['max_difference'] = _difference(weights[contender], weights[reference])
    lines.append(line)
  return lines


def _cell(line: dict[str, Any], key: str, form: str) -> str:
  return format(line[key], form) if key in line else '-'


def _define_flags() -> None:
  """Not at import, since modules that import this one may have flags with the same names."""
  default = 'all GPUs and CPU:0 if not given'
  flags.DEFINE_list('devices', None, f'Devices to run on; {default}.')
  flags.DEFINE_list('workloads', ['A', 'B', 'D'], 'Workloads of `round_time` to run.')
  flags.DEFINE_integer('rounds', 5, 'Timed rounds per device.', lower_bound=1)
  flags.DEFINE_string('compile', 'auto', 'The local context: auto, tensorflow or xla.')
  flags.DEFINE_string('json', None, 'File to append one line per workload and device to.')


def main(argv: Sequence[str]) -> int:
  del argv
  multiprocessing.set_start_method('spawn')
  os.environ.setdefault('PYTHONWARNINGS', 'ignore:pkg_resources is deprecated:UserWarning')
  with concurrent.futures.ProcessPoolExecutor(1) as pool:
    there = pool.submit(_list_devices).result()
  print('devices:', ', '.join(f'{name} ({kind})' for name, kind in there.items()))
  gpus = [name for name in there if name.startswith('GPU')]
  flag_values = flags.FLAGS
  if not gpus and flag_values.devices is None:
    print(_NO_GPU)
    return 1
  lines = []
  print('workload  device   median s  CPU/this  max. difference  ran')
  for workload in flag_values.workloads:
    for line in _measure(
      workload, flag_values.devices or [*gpus, 'CPU:0'], flag_values.rounds, flag_values.compile
    ):
      lines.append(line)
      print(
        f'{workload:8}  {line["device"]:6} {_cell(line, "median_seconds", ".4f"):>10} '
        f'{_cell(line, "cpu_ratio", ".2f"):>9} {_cell(line, "max_difference", ".2e"):>16}  '
        f'{line["found"]}',
        flush=True,
      )
  if flag_values.json:
    with open(flag_values.json, 'a') as file:
      file.writelines(json.dumps(line) + '\n' for line in lines)
  return int(not all('median_seconds' in line for line in lines))


if __name__ == '__main__':
  _define_flags()
  app.run(main)
