"""Runs two rounds of every method, codec and task at full size; reports time and memory.

  python -m benchmarks.sweep [--cases=methods,codecs,tasks] [--only=TEXT] [--sweep_data_dir=DIR]

`methods` and `codecs` train a model with a dense weight of 25 million numbers, 50,000 x 500, with
every --method, and with FedAvg and every codec of the grammar as --uplink. `tasks` trains every
task's own model with every method, on the data of `--sweep_data_dir`, or on synthetic data of the
same shapes if it is missing. Three clients take part in each round, two at a time. Each case is a
row: its outcome, the seconds of both rounds including building and compiling, and the peak memory
of the process so far. The exit status is 1 if a case fails, or ends its process.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import json
import multiprocessing
import pathlib
import resource
import tempfile
import time
from typing import Any, NamedTuple

from absl import flags

from tff_lowrank.cli import entry

_CASES = flags.DEFINE_list('cases', 'methods,codecs,tasks', 'Cases to run.')
_ONLY = flags.DEFINE_string('only', '', 'Run only cases with this text in their name.')
_DIR = flags.DEFINE_string('sweep_data_dir', None, 'Folder with data sets.')

CLIENTS, IN_FLIGHT, ROUNDS = 3, 2, 2
# 25 million numbers.
WIDE = (50_000, 500)

CODECS = (
  'identity',
  'top_k(0.1)',
  'top_k(0.1,qsgd(7))',
  'random_k(0.1)',
  'sign_sgd',
  'qsgd(127,max)',
  'float16',
  'terngrad',
  'atomo(2)',
  'truncated_svd(2)',
  'power_sgd(2)',
  'drive',
  'gaia(0.01)',
  'cmfl(0.7)',
  'error_feedback(top_k(0.1))',
  'look_back(identity,0.4)',
  'look_back(error_feedback(top_k(0.1)),0.2)',
  'look_back(sign_sgd,0.4)',
)


@dataclasses.dataclass(frozen=True)
class Case:
  """task: None for the wide model. settings: the settings of a run."""

  task: str | None
  method: str
  uplink: str = 'identity'

  def __str__(self) -> str:
    return f'{self.task or "wide"} {self.method} {self.uplink}'


class Folders(NamedTuple):
  """data: the user's data sets, or None. made_up: synthetic files of Stack Overflow."""

  data: str | None
  made_up: str


def _cases(kinds: Sequence[str]) -> Iterator[Case]:
  from tff_lowrank import codecs
  from tff_lowrank import methods
  from tff_lowrank import tasks
  from tff_lowrank.codecs import grammar

  covered = {text.split('(')[0] for text in CODECS}
  assert covered >= set(grammar.CODECS), f'no case for {set(grammar.CODECS) - covered}'
  assert all(codecs.parse(text) for text in CODECS)
  if 'methods' in kinds:
    yield from (Case(None, method) for method in methods.METHODS)
  if 'codecs' in kinds:
    yield from (Case(None, methods.BASELINE.name, codec) for codec in CODECS)
  if 'tasks' in kinds:
    for task in tasks.NAMES:
      yield from (Case(task, method) for method in methods.METHODS)


def _wide_task() -> Any:
  import numpy as np

  from tff_lowrank import models
  from tff_lowrank import tasks
  from tff_lowrank.datasets import arrays

  rng = np.random.default_rng(0)
  x = rng.normal(size=(CLIENTS * 8, WIDE[0])).astype(np.float32)
  split = arrays.Split(x, np.arange(len(x), dtype=np.int32) % 10)
  clients = arrays.partitioned(split, np.array_split(np.arange(len(x)), CLIENTS))
  build = functools.partial(models.build_mlp, WIDE[:1], WIDE[1:])
  return tasks.Task('wide', clients, split, lambda batch: batch, build)


def _write_stackoverflow(folder: pathlib.Path) -> None:
  """Synthetic files in Stack Overflow's format, with as many words and tags, but few sentences."""
  import h5py
  import numpy as np

  from tff_lowrank.datasets import posts
  from tff_lowrank.datasets import stackoverflow

  words = [f'word{i}' for i in range(posts.VOCABULARY_SIZE)]
  tags = [f'tag{i}' for i in range(posts.NUM_TAGS)]
  counts = '\n'.join(f'{word} {len(words) - i}' for i, word in enumerate(words))
  (folder / stackoverflow.WORD_COUNTS).write_text(f'{counts}\n')
  tag_counts = {tag: len(tags) - i for i, tag in enumerate(tags)}
  (folder / stackoverflow.TAG_COUNTS).write_text(json.dumps(tag_counts))
  rng = np.random.default_rng(0)

  def texts(choices: list[str], length: int, separator: str) -> list[bytes]:
    return [separator.join(rng.choice(choices, length)).encode() for _ in range(8)]

  for name in stackoverflow.FILES.hdf5.values():
    with h5py.File(folder / name, 'w') as file:
      for client in range(CLIENTS):
        group = file.create_group(f'examples/{client}')
        group['tokens'] = texts(words, 15, ' ')
        group['title'] = texts(words, 5, ' ')
        group['tags'] = texts(tags, 3, '|')


@functools.lru_cache(maxsize=1)
def _task(name: str, folders: Folders, family: str, gamma: float | None) -> Any:
  from tff_lowrank import tasks

  natural = tasks.simple_partitions(name)[0] == tasks.NATURAL
  build = functools.partial(
    tasks.build,
    name,
    partition=tasks.NATURAL if natural else 'iid',
    num_clients=0 if natural else CLIENTS,
    seed=1,
    model_family=family,
    gamma=gamma,
  )
  made_up = folders.made_up if name.startswith('stackoverflow') else tasks.SYNTHETIC
  try:
    return build(data_dir=folders.data)
  except FileNotFoundError:
    return build(data_dir=made_up)


def _run(case: Case, folders: Folders) -> str:
  """Runs two rounds of a case in the current context: `runs`, or the reason why it is refused."""
  from tff_lowrank import client_state
  from tff_lowrank import methods
  from tff_lowrank.models import keyed
  from tff_lowrank.runs import processes
  from tff_lowrank.runs import spec as spec_lib
  from tff_lowrank.simulation import batches
  from tff_lowrank.simulation import rounds

  settings = dict(rounds=ROUNDS, clients_per_round=CLIENTS, uplink=case.uplink)
  if methods.find(case.method).is_personal:  # These need examples to test clients' models on.
    settings['client_test_fraction'] = 0.2
  spec = spec_lib.make(case.method, settings)
  if case.task is None:
    task = _wide_task()
    if spec.gamma is not None:
      build = functools.partial(task.keras_model_fn, family=spec.model_family, gamma=spec.gamma)
      task = dataclasses.replace(task, keras_model_fn=build)
  else:
    task = _task(case.task, folders, spec.model_family, spec.gamma)
  clients = task.train.client_ids[:CLIENTS]
  model = task.build_model(1)
  try:
    process = processes.build_process(spec, model, task.keras_model_fn, len(clients))
  except ValueError as e:  # Methods raise this if they have no effect on the model.
    return f'refused: {e}'
  cut = batches.ClientBatches(1, 4, 1, 8, dropout_keys=keyed.is_keyed(model))
  finished = []
  rounds.run_rounds(
    process,
    process.initialize(),
    client_state.MemoryStore(process.initialize_client()),
    lambda number: clients,
    lambda client, number: cut.dataset(task.train, client, number, task.preprocess),
    range(1, ROUNDS + 1),
    finished.append,
  )
  for done in finished:
    assert len(done.client_ids) == len(clients), f'excluded: {done.absent}'
  return 'runs'


def _work(cases: Sequence[tuple[int, Case]], folders: Folders, results: Any) -> None:
  """Runs in a separate process."""
  from tff_lowrank import execution

  execution.set_local_context(max_clients_in_flight=IN_FLIGHT)
  for number, case in cases:
    start = time.monotonic()
    try:
      outcome = _run(case, folders)
    except Exception as e:
      outcome = f'FAILS {type(e).__name__}: {str(e)[:300]}'.replace('\n', ' ')
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.put((number, outcome, time.monotonic() - start, peak))


def _run_all(todo: list[tuple[int, Case]], folders: Folders) -> int:
  """Prints one row per case, and returns the number of failures."""
  spawn = multiprocessing.get_context('spawn')
  failures = 0
  print('| task | method | uplink | outcome | seconds | peak MB |', flush=True)
  print('|---|---|---|---|---:|---:|', flush=True)
  while todo:
    # Each case of the wide model in its own process, to measure its peak memory.
    is_alone = todo[0][1].task is None
    group = [c for c in todo if c[1].task == todo[0][1].task][: 1 if is_alone else None]
    results = spawn.SimpleQueue()
    process = spawn.Process(target=_work, args=(group, folders, results))
    process.start()
    for number, case in group:
      while results.empty() and process.is_alive():
        time.sleep(0.2)
      if results.empty():
        outcome, seconds, peak = f'ENDS the process, status {process.exitcode}', 0.0, 0.0
      else:
        done, outcome, seconds, peak = results.get()
        assert done == number
      todo.remove((number, case))
      failures += not outcome.startswith(('runs', 'refused'))
      row = (case.task or 'wide', case.method, f'`{case.uplink}`', outcome)
      print(f'| {" | ".join(row)} | {seconds:.1f} | {peak:.0f} |', flush=True)
      if outcome.startswith('ENDS'):
        break
    process.join()
  return failures


def main(argv: Sequence[str]) -> None:
  del argv
  todo = [c for c in enumerate(_cases(_CASES.value)) if _ONLY.value in str(c[1])]
  with tempfile.TemporaryDirectory() as made_up:
    _write_stackoverflow(pathlib.Path(made_up))
    failures = _run_all(todo, Folders(_DIR.value, made_up))
  print(f'{failures} failed.')
  if failures:
    raise SystemExit(1)


if __name__ == '__main__':
  entry.run_without_tff(main)
