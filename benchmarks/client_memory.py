"""Measures the peak RAM of training with client state, with as many clients as EMNIST's writers.

  python -m benchmarks.client_memory [--rounds=10] [--kinds=auto,ram]

Synthetic data for federated EMNIST's 3,400 writers: 20 random images per writer, and the CNN of
EMNIST's task. Ten rounds of 50 clients with a checkpoint every two rounds, each run in its own
process: FedAvg, without client state, and LBGM, with the client state where --client_memory says.
Prints the peak resident memory of each process (`ru_maxrss`), its ratio to FedAvg's, the seconds
per round, and the size of the run folder.
"""

from collections.abc import Sequence
import os
import pathlib
import subprocess
import sys
import tempfile

from absl import app
from absl import flags
import h5py
import numpy as np
import pandas as pd

_ROUNDS = flags.DEFINE_integer('rounds', 10, 'Rounds of each run.', lower_bound=1)
_CLIENTS = flags.DEFINE_integer('clients', 3400, 'Number of clients.', lower_bound=50)
_KINDS = flags.DEFINE_list('kinds', ['auto', 'ram'], 'Values of --client_memory for LBGM.')

EXAMPLES = 20


def _write_examples(path: pathlib.Path, num_clients: int, seed: int) -> None:
  rng = np.random.default_rng(seed)
  with h5py.File(path, 'w') as file:
    for i in range(num_clients):
      group = file.create_group(f'examples/f{i:04d}_00')
      group['pixels'] = rng.random((EXAMPLES, 28, 28), np.float32)
      group['label'] = rng.integers(0, 62, EXAMPLES, np.int32)


def _measure(data_dir: pathlib.Path, folder: pathlib.Path, settings: Sequence[str]) -> list[float]:
  """Peak GB of memory, seconds per round, and GB of the folder."""
  command = [
    sys.executable, '-m', 'experiments.train', '--task=emnist', '--partition=natural',
    f'--data_dir={data_dir}', '--clients_per_round=50', f'--rounds={_ROUNDS.value}',
    '--checkpoint_every=2', '--eval_every=100', f'--output_dir={folder}', *settings,
  ]  # fmt: skip
  process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    raise RuntimeError(f'{command} ended with {os.waitstatus_to_exitcode(status)}.')
  seconds = pd.read_csv(folder / 'metrics.csv')['round_seconds'].median()
  disk = sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
  return [usage.ru_maxrss * 1024 / 1e9, seconds, disk / 1e9]


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Expected flags only, found {argv[1:]}.')
  runs = {'fed_avg': ['--method=fed_avg']}
  for kind in _KINDS.value:
    runs[f'lbgm, {kind}'] = ['--method=lbgm', f'--client_memory={kind}']
  print(f'{"":20}{"peak GB":>10}{"ratio":>10}{"s a round":>12}{"disk GB":>10}')
  with tempfile.TemporaryDirectory() as temporary:
    data_dir = pathlib.Path(temporary)
    _write_examples(data_dir / 'fed_emnist_train.h5', _CLIENTS.value, 1)
    _write_examples(data_dir / 'fed_emnist_test.h5', 50, 2)
    first = None
    for i, (name, settings) in enumerate(runs.items()):
      peak, seconds, disk = _measure(data_dir, data_dir / str(i), settings)
      first = first or peak
      print(f'{name:20}{peak:10.2f}{peak / first:10.2f}{seconds:12.2f}{disk:10.2f}', flush=True)


if __name__ == '__main__':
  app.run(main)
