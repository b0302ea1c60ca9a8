"""Runs the programs that `execution.export_programs` wrote; needs only NumPy and jax.

  python -m tff_lowrank.exported run FOLDER [--device=gpu] [--tolerance=1e-4] [--repeats=5]
  python -m tff_lowrank.exported show FOLDER

`run` compiles each program, runs it on the inputs in the folder, and prints a line: its time, the
difference of its results from those in the folder, and whether a second run gave the same bits.
The exit status is 1 if a program fails or a difference exceeds the tolerance. The folder has a
copy of this file, for machines without the package: `python FOLDER/exported.py run FOLDER`.
"""

import argparse
from collections.abc import Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import time
from typing import Any
import zlib

import numpy as np

FORMAT = 1
MANIFEST = 'manifest.json'
# A long result is stored as this many sums of its entries with random signs.
SKETCH_SIZE = 512


@dataclasses.dataclass(frozen=True)
class Program:
  """A program in a folder.

  folder: the folder of its files.
  entry: its entry in the manifest: `name`, `file`, `stage` (of the computation, from 1),
    `batched` (whether its operations are batched over the clients of a block), `num_calls` (in a
    run of the computation), `precision` (of its products and convolutions), and `name`, `shape`
    and `dtype` of its `arguments` and `results`.
  """

  folder: pathlib.Path
  entry: dict[str, Any]

  @property
  def name(self) -> str:
    return self.entry['name']

  @property
  def artifact(self) -> bytes:
    """Portable StableHLO."""
    return (self.folder / self.entry['file']).read_bytes()

  def arguments(self) -> list[np.ndarray]:
    """The inputs to run it on. Raises ValueError if they are missing or differ from the export."""
    arrays = self._arrays()
    return [argument(entry, arrays) for entry in self.entry['arguments']]

  def differences(self, results: Sequence[np.ndarray]) -> list[float]:
    """The differences of results from the stored ones, relative to the norm of each.

    For results that are not floats, 0 or 1. For a long result it is an estimate from sums of its
    entries.
    """
    arrays, found = self._arrays(), []
    for entry, got in zip(self.entry['results'], results, strict=True):
      if entry['name'] not in arrays:
        raise ValueError(f'There are no results of {self.name} to compare with.')
      want = arrays[entry['name']]
      got = sketch(got) if entry['sketched'] else as_stored(got)
      if entry['dtype'].startswith(('float', 'bfloat')):
        got, want = (_from_stored(a, entry).astype(np.float64).ravel() for a in (got, want))
        norm = float(np.linalg.norm(want))
        off = float(np.linalg.norm(got - want))
        found.append(off / norm if norm else off)
      else:
        found.append(float(not np.array_equal(got, want)))
    return found

  def _arrays(self) -> dict[str, np.ndarray]:
    path = self.folder / f'{self.name}.npz'
    if not path.exists():
      return {}
    with np.load(path) as arrays:
      return dict(arrays)


def load(folder: str | pathlib.Path) -> list[Program]:
  """The programs in a folder. Raises ValueError if it was not written by the export."""
  folder = pathlib.Path(folder)
  path = folder / MANIFEST
  if not path.exists():
    raise ValueError(f'Expected a folder with {MANIFEST}, found {folder}.')
  manifest = json.loads(path.read_text())
  if manifest.get('format') != FORMAT:
    raise ValueError(f'Expected a folder of format {FORMAT}, found {manifest.get("format")}.')
  return [Program(folder, entry) for entry in manifest['programs']]


def generate(spec: dict[str, Any], shape: Sequence[int], dtype: str) -> np.ndarray:
  """A random array: uniform in [`low`, `high`], or true with probability `high`, from `seed`."""
  rng = np.random.default_rng(spec['seed'])
  low, high = spec['low'], spec['high']
  if dtype == 'bool':
    return rng.random(shape, dtype=np.float32) < high
  if not dtype.startswith('float'):
    return rng.integers(low, high, shape, np.dtype(dtype), endpoint=True)
  wide: type[np.float32] | type[np.float64] = np.float64 if dtype == 'float64' else np.float32
  array = wide(low) + wide(high - low) * rng.random(shape, dtype=wide)
  return np.clip(array, wide(low), wide(high)).astype(dtype)


def checksum(array: np.ndarray) -> int:
  return zlib.crc32(np.ascontiguousarray(array).tobytes())


def sketch(array: np.ndarray) -> np.ndarray:
  """float64 [`SKETCH_SIZE`]: sums of entries with random signs; their norm estimates the array's.

  Exact for integers.
  """
  flat = np.ravel(array).astype(np.float64)
  signs = np.random.default_rng(flat.size).integers(0, 2, flat.size) * 2 - 1
  padded = np.concatenate([flat * signs, np.zeros(-flat.size % SKETCH_SIZE)])
  return padded.reshape(-1, SKETCH_SIZE).sum(0)


def as_stored(array: np.ndarray) -> np.ndarray:
  """bfloat16, which NumPy's files do not have, as uint16."""
  return array.view(np.uint16) if array.dtype.name == 'bfloat16' else array


def _from_stored(array: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
  if entry['dtype'] == 'bfloat16' and array.dtype == np.uint16:
    return (array.astype(np.uint32) << 16).view(np.float32)
  return array


def argument(entry: dict[str, Any], arrays: dict[str, np.ndarray]) -> np.ndarray:
  """An argument of a program: the stored array, or the same random numbers again.

  Raises ValueError if NumPy's generators make others here.
  """
  if 'random' not in entry:
    if entry['name'] not in arrays:
      raise ValueError(f'There is no input for {entry["name"]}.')
    array = arrays[entry['name']]
    if entry['dtype'] == 'bfloat16':
      import jax.numpy as jnp

      array = array.view(jnp.bfloat16)
    return array
  array = generate(entry['random'], entry['shape'], entry['dtype'])
  if checksum(array) != entry['random']['checksum']:
    raise ValueError(f"{entry['name']} differs here: NumPy's random generators differ.")
  return array


def _all_bits() -> contextlib.AbstractContextManager:
  """Inside, 64-bit arrays keep their dtype on a device."""
  import jax

  if hasattr(jax, 'enable_x64'):
    return jax.enable_x64(True)
  from jax import experimental

  return experimental.enable_x64()


def compile_options(device: Any) -> Any:
  """jaxlib's options with the folder where pip installed `ptxas` and libdevice, as `jax.jit`.

  On the CPU a product runs in one thread: in several, the order of its sums, and so its digits,
  would depend on the number of cores.
  """
  import jaxlib
  from jaxlib import xla_client

  options = xla_client.CompileOptions()
  options.env_option_overrides = [('xla_cpu_multi_thread_eigen', False)]
  if device.platform != 'cpu':
    packages = pathlib.Path(jaxlib.__file__).parents[1] / 'nvidia'
    roots = [pathlib.Path(os.environ['CUDA_ROOT'])] if 'CUDA_ROOT' in os.environ else []
    for root in [*roots, packages / 'cu13', packages / 'cuda_nvcc']:
      if (root / 'bin' / 'ptxas').exists():
        options.executable_build_options.debug_options.xla_gpu_cuda_data_dir = str(root)
        break
  return options


class Executable:
  """A program compiled for a device.

  compile_seconds: the time of compilation.
  """

  def __init__(self, artifact: bytes, device: Any):
    """Compiles portable StableHLO for `device`, one of `jax.devices()`."""
    from jaxlib import xla_client

    options = compile_options(device)
    start = time.perf_counter()
    if hasattr(device.client, 'compile_and_load'):
      devices = xla_client.DeviceList((device,))
      self._executable = device.client.compile_and_load(artifact, devices, options)
    else:  # As in jax 0.4.23, which programs are exported from.
      text = xla_client._xla.mlir.deserialize_portable_artifact(artifact)
      assignment = np.array([[device.id]])
      options.device_assignment = xla_client.DeviceAssignment.create(assignment)
      self._executable = device.client.compile(text, options)
    self.compile_seconds = time.perf_counter() - start
    self._device = device

  @property
  def temporary_bytes(self) -> int | None:
    """Bytes of device memory for intermediate results; None if XLA does not report it."""
    try:
      return self._executable.get_compiled_memory_stats().temp_size_in_bytes
    except Exception:
      return None

  def put(self, arrays: Sequence[np.ndarray]) -> list[Any]:
    """Copies arrays to the device, and waits for it."""
    import jax

    with _all_bits():
      return jax.block_until_ready([jax.device_put(a, self._device) for a in arrays])

  def __call__(self, arguments: Sequence[Any]) -> list[Any]:
    """Runs on the result of `put`; waits, and returns the results on the device."""
    import jax

    return jax.block_until_ready(self._executable.execute(list(arguments)))


def to_host(arrays: Sequence[Any]) -> list[np.ndarray]:
  return [np.asarray(array) for array in arrays]


def are_same(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
  """Whether arrays are bit-identical."""
  return all(a.tobytes() == b.tobytes() for a, b in zip(some, others, strict=True))


def run(program: Program, device: Any, repeats: int = 5) -> dict[str, Any]:
  """Compiles and runs a program on its inputs.

  Returns `name`, `compile_seconds`, `ms` (the median of `repeats` runs), `worst` and `median`
  (of `Program.differences`) and `is_repeatable`.
  """
  executable = Executable(program.artifact, device)
  arguments = executable.put(program.arguments())
  results = to_host(executable(arguments))
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    again = executable(arguments)
    seconds.append(time.perf_counter() - start)
  off = program.differences(results)
  return dict(
    name=program.name,
    compile_seconds=round(executable.compile_seconds, 3),
    ms=round(1e3 * statistics.median(seconds), 3),
    worst=max(off, default=0.0),
    median=statistics.median(off) if off else 0.0,
    is_repeatable=are_same(results, to_host(again)),
  )


def _show(programs: Sequence[Program]) -> None:
  for program in programs:
    entry = program.entry
    how = 'batched' if entry['batched'] else 'one client after the other'
    print(
      f'{program.name}: stage {entry["stage"]}, {how}, precision {entry["precision"]}, called '
      f'{entry["num_calls"]} times in a round'
    )
    for kind in ('arguments', 'results'):
      for of_one in entry[kind]:
        print(f'  {of_one["name"]} {of_one["dtype"]} {of_one["shape"]}')


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser('exported', description=__doc__.split('\n')[0])
  parser.add_argument('command', choices=('run', 'show'))
  parser.add_argument('folder')
  parser.add_argument('--device', choices=('cpu', 'gpu'), help="jax's own choice if not given")
  parser.add_argument('--tolerance', type=float, default=1e-4)
  parser.add_argument('--repeats', type=int, default=5)
  flags = parser.parse_args(argv)
  programs = load(flags.folder)
  if flags.command == 'show':
    _show(programs)
    return 0
  import jax

  device = jax.devices(flags.device)[0]
  print(f'jax {jax.__version__} on {device.device_kind}')
  has_failed = False
  for program in programs:
    try:
      line = run(program, device, max(flags.repeats, 1))
    except Exception as e:
      print(f'{program.name}: FAILED {type(e).__name__}: {str(e)[:300]}')
      has_failed = True
      continue
    is_near = line['worst'] <= flags.tolerance  # Not with NaN.
    has_failed |= not is_near
    print(
      f'{line["name"]}: {"ok" if is_near else "DIFFERS"}, compiled in '
      f'{line["compile_seconds"]:.2f} s, {line["ms"]:.3f} ms, difference {line["worst"]:.1e}, '
      f'{"repeatable" if line["is_repeatable"] else "not repeatable"}',
      flush=True,
    )
  return int(has_failed)


if __name__ == '__main__':
  sys.exit(main())
