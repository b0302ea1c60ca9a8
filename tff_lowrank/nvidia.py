"""Checks for GPUs: the driver, the compute capability, the CUDA libraries, memory.

Common faults are identified from the output of `nvidia-smi`, from the versions that the libraries
of jax's CUDA plug-in report, and from the errors of a small computation on each GPU. These run in
separate processes, since a broken library may end the process that loads it.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import pathlib
import re
import shutil
import subprocess

from tff_lowrank import findings

# https://docs.nvidia.com/cuda/cuda-toolkit-release-notes: the oldest driver for CUDA 12.
MIN_DRIVER = (525, 60, 13)
# The compute capabilities that jaxlib 0.4.23 was built for: Maxwell to Hopper.
MIN_CAPABILITY, MAX_CAPABILITY = (5, 2), (9, 0)
MIN_FREE_MB = 1000

_DRIVER, _LIBRARIES, _ARITHMETIC = 'NVIDIA driver', 'CUDA libraries', 'arithmetic on GPUs'
_NEW_DRIVER = f'Install a driver of version {".".join(map(str, MIN_DRIVER))} or newer'
_EXTRA = "pip install 'tff-lowrank[gpu]'"

# The result of a command: its exit status, None if it did not end; and its output.
Run = Callable[[Sequence[str]], tuple[int | None, str]]


@dataclasses.dataclass(frozen=True)
class Card:
  """A GPU, as the driver sees it; memory in MiB, the compute capability as in (9, 0)."""

  name: str
  driver: str
  capability: tuple[int, ...]
  total_mb: int
  used_mb: int

  def __str__(self) -> str:
    capability = '.'.join(map(str, self.capability)) or 'unknown'
    return (
      f'{self.name}, compute capability {capability}, {self.used_mb} of {self.total_mb} MiB used'
    )


def run_command(command: Sequence[str]) -> tuple[int | None, str]:
  """Runs a command for at most a minute; status 127 if it does not exist."""
  try:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, errors='replace')
  except FileNotFoundError:
    return 127, ''
  except subprocess.TimeoutExpired:
    return None, ''
  return done.returncode, f'{done.stdout}\n{done.stderr}'.strip()


def has_card(pci: pathlib.Path = pathlib.Path('/sys/bus/pci/devices')) -> bool:
  """Whether there is an NVIDIA GPU in the machine, with or without a driver."""
  for device in pci.glob('*'):
    try:
      vendor = (device / 'vendor').read_text().strip()
      kind = (device / 'class').read_text().strip()
    except OSError:
      continue
    if vendor == '0x10de' and kind.startswith('0x03'):  # NVIDIA's; a display controller.
      return True
  return False


def has_driver() -> bool:
  """Whether a driver seems to be installed; it may not work."""
  return pathlib.Path('/proc/driver/nvidia').exists() or shutil.which('nvidia-smi') is not None


def check_driver(run: Run = run_command, in_machine: bool | None = None) -> list[findings.Finding]:
  """Checks the driver and the GPUs that it sees; no findings without driver and GPU."""
  fields = ['name', 'driver_version', 'memory.total', 'memory.used', 'compute_cap']
  query = lambda names: run(  # noqa: E731
    ['nvidia-smi', f'--query-gpu={",".join(names)}', '--format=csv,noheader,nounits']
  )
  status, output = query(fields)
  if status == 127:
    if not (has_card() if in_machine is None else in_machine):
      return []
    found = 'none, although there is an NVIDIA GPU'
    return [findings.Finding(_DRIVER, findings.WARNING, found, f'{_NEW_DRIVER} to use it.')]
  if status is not None and 'compute_cap' in output and 'not a valid field' in output:
    status, output = query(fields[:-1])  # An old driver reports this.
  if status != 0:
    return [_broken_driver(status, output)]
  cards = _cards(output)
  if not cards:
    advice = 'Check that the machine or container has access to a GPU (docker run --gpus all).'
    return [findings.Finding(_DRIVER, findings.WARNING, 'installed, but it sees no GPU', advice)]
  return [_check_driver_version(cards[0].driver), *map(_check_card, range(len(cards)), cards)]


def _broken_driver(status: int | None, output: str) -> findings.Finding:
  text = ' '.join(output.split())[:300]
  if 'version mismatch' in text:
    advice = 'The driver was updated while it was in use: restart the machine.'
  elif "couldn't communicate" in text or 'No devices were found' in text:
    advice = f'The driver is not running: load it (modprobe nvidia), or restart. {_NEW_DRIVER}.'
  else:
    advice = f'{_NEW_DRIVER}.'
  found = f'nvidia-smi fails: {text}' if status is not None else 'nvidia-smi does not answer'
  return findings.Finding(_DRIVER, findings.WARNING, found, advice)


def _cards(output: str) -> list[Card]:
  cards = []
  for line in output.splitlines():
    parts = [part.strip() for part in line.split(',')]
    if len(parts) >= 4 and parts[2].isdigit():
      capability = _numbers(parts[4]) if len(parts) > 4 else ()
      used = int(parts[3]) if parts[3].isdigit() else 0
      cards.append(Card(parts[0], parts[1], capability, int(parts[2]), used))
  return cards


def _numbers(version: str) -> tuple[int, ...]:
  return tuple(int(number) for number in re.findall(r'\d+', version))


def _check_driver_version(driver: str) -> findings.Finding:
  if _numbers(driver) < MIN_DRIVER:
    found = f'{driver}, too old for CUDA 12'
    return findings.Finding(_DRIVER, findings.PROBLEM, found, f'{_NEW_DRIVER}.')
  return findings.Finding(_DRIVER, findings.OK, driver)


def _check_card(index: int, card: Card) -> findings.Finding:
  name = f'NVIDIA GPU {index}'
  if card.capability and card.capability < MIN_CAPABILITY:
    advice = (
      'This jaxlib does not support it: set CUDA_VISIBLE_DEVICES to the other GPUs, or to none.'
    )
    return findings.Finding(name, findings.PROBLEM, f'{card}, too old', advice)
  if card.total_mb - card.used_mb < MIN_FREE_MB:
    advice = 'Other processes use its memory (see nvidia-smi). End them, or use another GPU.'
    return findings.Finding(name, findings.WARNING, str(card), advice)
  if card.capability > MAX_CAPABILITY:
    advice = (
      'It is newer than this jaxlib and cuDNN 8.9, which may not support it. If arithmetic '
      'fails below, export programs (execution.export_programs) to a current jax.'
    )
    return findings.Finding(name, findings.WARNING, str(card), advice)
  return findings.Finding(name, findings.OK, str(card))


@dataclasses.dataclass(frozen=True)
class _Library:
  """A CUDA library; `decode` splits its version number into parts."""

  package: str
  decode: Callable[[int], tuple[int, int, int]]


def _thousands(number: int) -> tuple[int, int, int]:
  return number // 1000, number // 100 % 10, number % 100


def _ten_thousands(number: int) -> tuple[int, int, int]:
  return number // 10_000, number // 100 % 100, number % 100


def _cuda(number: int) -> tuple[int, int, int]:
  return number // 1000, number // 10 % 100, number % 10


def _cudnn(number: int) -> tuple[int, int, int]:
  return _thousands(number) if number < 10_000 else _ten_thousands(number)


_OF_CUDA = {
  'cuda_runtime': _Library('nvidia-cuda-runtime-cu12', _cuda),
  'cudnn': _Library('nvidia-cudnn-cu12', _cudnn),
  'cublas': _Library('nvidia-cublas-cu12', _ten_thousands),
  'cufft': _Library('nvidia-cufft-cu12', _thousands),
  'cusolver': _Library('nvidia-cusolver-cu12', _thousands),
  'cusparse': _Library('nvidia-cusparse-cu12', _thousands),
}

# Reads the versions from the plug-in's private module, which its start-up checks use; there is no
# public one. Each in a separate process, since a missing library ends the process.
LIBRARIES_PROBE = """
import importlib, json, os, pathlib, shutil
versions = importlib.import_module('jax_cuda12_plugin._versions')
for name in dir(versions):
  if name.endswith('_version'):
    child = os.fork()
    if not child:
      try:
        os.write(1, (chr(10) + json.dumps({name: getattr(versions, name)()}) + chr(10)).encode())
      finally:
        os._exit(0)
    os.waitpid(child, 0)
packages = pathlib.Path(versions.__file__).parents[1]
ptxas = packages / 'nvidia' / 'cuda_nvcc' / 'bin' / 'ptxas'
print(json.dumps({'ptxas': str(ptxas) if ptxas.exists() else shutil.which('ptxas')}))
"""


def check_libraries(probe: Callable[[str], tuple[int | None, str]]) -> findings.Finding:
  """Checks the versions of CUDA, cuDNN and the other libraries that jax's plug-in loads.

  `probe` runs a program in a separate process, and returns its status and output.
  """
  status, output = probe(LIBRARIES_PROBE)
  if status != 0:
    text = f'cannot be loaded: {" ".join(output.split())[-200:]} (status {status})'
    return findings.Finding(_LIBRARIES, findings.PROBLEM, text, f'Run {_EXTRA}.')
  found: dict[str, int | str | None] = {}
  for line in output.splitlines():
    if line.startswith('{'):
      found |= json.loads(line)
  return judge_libraries(found)


def judge_libraries(found: Mapping[str, int | str | None]) -> findings.Finding:
  """Checks that all libraries were found, and are not older than those of the plug-in's build."""
  versions, missing, old = [], [], []
  driver = found.get('cuda_driver_get_version')
  if isinstance(driver, int) and driver:  # 0 without a driver.
    versions.append(f'driver for CUDA {_text(_cuda(driver)[:2])}')
  for name, library in _OF_CUDA.items():
    version, built = found.get(f'{name}_get_version'), found.get(f'{name}_build_version')
    if not isinstance(version, int):
      missing.append((name, library.package))
      continue
    versions.append(f'{name} {_text(library.decode(version))}')
    if isinstance(built, int) and version < built:
      old.append((f'{name} before {_text(library.decode(built))}', library.package))
    elif name == 'cudnn' and isinstance(built, int) and _cudnn(version)[0] != _cudnn(built)[0]:
      old.append((f'cudnn that is not {_cudnn(built)[0]}', f'{library.package}<9'))
  if not found.get('ptxas'):
    missing.append(('ptxas', 'nvidia-cuda-nvcc-cu12'))
  text = ', '.join(versions) or 'none'
  for what, them in (('not found', missing), ('too old, or too new', old)):
    if them:
      text += f'; {what}: {", ".join(name for name, _ in them)}'
  if missing or old:
    packages = ' '.join(f"'{package}'" for _, package in [*missing, *old])
    advice = (
      f'Run {_EXTRA}, or pip install -U {packages}; LD_LIBRARY_PATH may point to other versions: '
      'unset it.'
    )
    return findings.Finding(_LIBRARIES, findings.PROBLEM, text, advice)
  return findings.Finding(_LIBRARIES, findings.OK, text)


def _text(version: Sequence[int]) -> str:
  return '.'.join(map(str, version))


# A product, a convolution and an exponential need cuBLAS, cuDNN, and ptxas with libdevice.
ARITHMETIC_PROBE = """
import jax
import jax.numpy as jnp
for device in jax.devices('gpu'):
  with jax.default_device(device):
    x = jnp.ones((1, 8, 8, 2))
    y = jax.jit(lambda x: jnp.exp(jax.lax.conv(x.transpose(0, 3, 1, 2), jnp.ones((3, 2, 3, 3)),
                                               (1, 1), 'SAME') @ jnp.ones((8, 8)) / 1000))(x)
    print('computed', device.id, device.device_kind, float(y.sum()))
"""

# Pattern in the text of an error -> the fault, and advice. The first match is used.
_FAULTS = (
  (
    r'RESOURCE_EXHAUSTED|OUT_OF_MEMORY|out of memory|failed to allocate',
    'out of memory',
    'Other processes may use the GPU (see nvidia-smi). Else use fewer clients at a time '
    '(max_clients_in_flight=1), smaller batches or a smaller model.',
  ),
  (
    r'driver version is insufficient|[Ii]nsufficient driver|UNSUPPORTED_PTX_VERSION|'
    r'INSUFFICIENT_DRIVER|kernel version .* does not match DSO',
    'the driver is too old',
    f'{_NEW_DRIVER}.',
  ),
  (
    r'no kernel image|NO_BINARY_FOR_GPU|INVALID_PTX|ptxas does not support CC|'
    r'Unsupported .*gpu-name',
    'this GPU is not supported',
    'Its compute capability must be 5.2 to 9.0 for this jaxlib; export programs to a current jax.',
  ),
  (
    r'cannot open shared object|Could not load dynamic library|libcudnn|cuDNN not found|'
    r'CUDNN_STATUS_NOT_INITIALIZED|DNN library|ptxas|libdevice|Error loading CUDA libraries',
    'a library was not found',
    f'Run {_EXTRA}.',
  ),
  (
    r'No visible GPU|no CUDA-capable device|ERROR_NO_DEVICE|no platforms that are instances of gpu|'
    r"Unknown backend|Unable to initialize backend 'cuda'",
    'no GPU is visible',
    'See the lines on the driver above; CUDA_VISIBLE_DEVICES may hide it.',
  ),
)


def fault(error: str) -> tuple[str, str] | None:
  """The meaning of an error of XLA or CUDA, and advice; None if it is not a common one."""
  for pattern, name, advice in _FAULTS:
    if re.search(pattern, error):
      return name, advice
  return None


def check_arithmetic(probe: Callable[[str], tuple[int | None, str]]) -> findings.Finding:
  """Computes a product and a convolution on each GPU; `probe` as in `check_libraries`."""
  status, output = probe(ARITHMETIC_PROBE)
  done = [line.split(None, 1)[1] for line in output.splitlines() if line.startswith('computed ')]
  if status == 0 and done:
    text = '; '.join(f'GPU:{line.rsplit(None, 1)[0]}' for line in done)
    return findings.Finding(_ARITHMETIC, findings.OK, text)
  lines = [line for line in output.strip().splitlines() if line.strip()] or ['no output']
  meaning = fault(output)
  how = 'does not end' if status is None else f'fails with status {status}'
  text = f'{how}: {meaning[0] + ": " if meaning else ""}{lines[-1][:200]}'
  advice = meaning[1] if meaning else 'Fix the problems above first.'
  return findings.Finding(_ARITHMETIC, findings.PROBLEM, text, advice)
