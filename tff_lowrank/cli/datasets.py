"""Lists, checks, downloads and describes data sets.

  tff-lowrank datasets --list
  tff-lowrank datasets --check --data_dir=DIR
  tff-lowrank datasets --download=shakespeare --data_dir=DIR
  tff-lowrank datasets --describe --task=qmnist --partition=natural --data_dir=DIR

--describe loads the task as a run with the same flags would, prints the number of clients, of
examples and of examples per label, and plots the partition to --output_dir (runs/datasets).
"""

from collections.abc import Sequence
import pathlib

from absl import app
from absl import flags
import numpy as np
import tqdm

from tff_lowrank import files
from tff_lowrank import methods
from tff_lowrank import settings
from tff_lowrank import tasks
from tff_lowrank.cli import entry
from tff_lowrank.cli import run_flags
from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import catalog
from tff_lowrank.datasets import download
from tff_lowrank.reports import partition_plots
from tff_lowrank.runs import runner
from tff_lowrank.runs import spec as spec_lib

_LIST = flags.DEFINE_boolean('list', False, 'Print all data sets.')
_CHECK = flags.DEFINE_boolean(
  'check', False, 'Read all data sets in --data_dir and report missing or damaged ones.'
)
_DESCRIBE = flags.DEFINE_boolean('describe', False, 'Print and plot the data of --task.')
_DOWNLOAD = flags.DEFINE_enum(
  'download',
  None,
  [name for name, data_set in catalog.DATA_SETS.items() if data_set.remote],
  'Download the files of a data set to --data_dir.',
)
_MAX_CLIENTS = flags.DEFINE_integer(
  'max_clients',
  1000,
  'If there are more clients, --describe reads this many at random.',
  lower_bound=1,
)

# Flags that --help does not show: those of a run that have no effect on its data.
UNUSED = (
  *({s.name for s in settings.of(spec_lib.RunSpec).values() if s.group != 'data'} - {'seed'}),
  *run_flags.of_other_methods([]),
)

_QUANTILES = (0, 25, 50, 75, 100)
_MAX_LABELS = 20


def list_data_sets() -> None:
  """Prints the catalog."""
  for name, data_set in catalog.DATA_SETS.items():
    print(f'{name}: {data_set.about}')
    rows = {
      'clients': data_set.clients or 'none: choose a --partition',
      'examples': data_set.sizes,
      'licence': data_set.licence,
      'tasks': ', '.join(data_set.tasks),
      'files': ', '.join(remote.url for remote in data_set.remote) or data_set.by_hand,
    }
    for key, value in rows.items():
      if value:
        print(f'  {key + ":":<10}{value}')


def _load(task: str, data_dir: str | None) -> tasks.Task:
  """The task with its natural clients or, if their files are missing, with one client."""
  missing = FileNotFoundError(task)
  for partition in tasks.simple_partitions(task):
    try:
      num_clients = 0 if partition == tasks.NATURAL else 1
      return tasks.build(
        task, partition=partition, num_clients=num_clients, seed=1, data_dir=data_dir
      )
    except FileNotFoundError as e:
      missing = e
  raise missing


def check_data_sets(data_dir: str) -> bool:
  """Reads all clients of every data set in `data_dir`; returns whether none is damaged."""
  sound = True
  for name, data_set in catalog.DATA_SETS.items():
    found: dict[str, None] = {}  # Each line once.
    # The last task may read files that the first does not.
    for task_name in (data_set.tasks[0], data_set.tasks[-1]):
      try:
        task = _load(task_name, None if name == 'digits' else data_dir)
        for client_id in tqdm.tqdm(task.train.client_ids, name, unit=' clients', disable=None):
          task.train.examples(client_id)
      except FileNotFoundError as e:
        found[f'missing: {e}'] = None
      except (ValueError, OSError) as e:
        sound = False
        found[f'DAMAGED: {name}: {e}'] = None
      else:
        clients = len(task.train.client_ids)
        found[f'here: {name}, {clients:,} clients, {len(task.test.y):,} test examples'] = None
    print('\n'.join(found))
  return sound


def _label_counts(examples: Sequence[arrays.Split]) -> np.ndarray | None:
  """[num_clients, num_classes]; None if labels are sequences."""
  labels = [split.y for split in examples]
  if labels[0].dtype.kind == 'f':
    return np.stack([y.sum(0) for y in labels]).astype(np.int64)
  if labels[0].ndim > 1:
    return None
  num_classes = 1 + max(y.max(initial=0) for y in labels)
  return np.stack([np.bincount(y, minlength=num_classes) for y in labels])


def describe(task: tasks.Task, max_clients: int, title: str, folder: pathlib.Path) -> None:
  """Prints the data of at most `max_clients` clients of `task`, and plots it to `folder`."""
  ids = task.train.client_ids
  if len(ids) > max_clients:
    chosen = np.random.default_rng(0).choice(len(ids), max_clients, replace=False)
    read = [ids[i] for i in sorted(chosen)]
  else:
    read = ids
  examples = [task.train.examples(client_id) for client_id in read]
  sizes = np.array([len(split.y) for split in examples])
  print(f'{title}: {len(ids):,} clients, {len(task.test.y):,} central test examples')
  is_all = len(read) == len(ids)
  which = f'all {len(ids):,} clients' if is_all else f'{len(read):,} random clients of {len(ids):,}'
  print(f'Of {which}: {sizes.sum():,} training examples; examples per client, by percentile:')
  print('  ' + ', '.join(f'{q} %: {np.percentile(sizes, q):g}' for q in _QUANTILES))
  counts = _label_counts(examples)
  if counts is not None:
    totals = counts.sum(0)
    order = np.argsort(-totals, kind='stable')[:_MAX_LABELS]
    print(f'Examples of each label (the {len(order)} most frequent of {len(totals)}):')
    for label in order:
      print(f'  {label:>4} {totals[label]:>9,} {"#" * round(40 * totals[label] / totals.max())}')
    labels = np.count_nonzero(counts, axis=1)
    print(f'Different labels per client: {labels.min()} to {labels.max()}')
  path = folder / f'{task.name}.png'
  partition_plots.plot_partition(sizes, counts, title, path, which, read)
  print(f'Wrote {path}')


def main(argv: Sequence[str]) -> None:
  del argv
  asked = [_LIST.value, _CHECK.value, _DESCRIBE.value, _DOWNLOAD.value is not None]
  if sum(asked) != 1:
    raise app.UsageError('Expected one of --list, --check, --describe and --download=DATA_SET.')
  if _LIST.value:
    list_data_sets()
    return
  data_dir = flags.FLAGS.data_dir
  if data_dir is None and not _DESCRIBE.value:
    raise app.UsageError('--data_dir is missing: the folder to check, or to download to.')
  if _CHECK.value:
    if not check_data_sets(data_dir):
      raise files.FileError(data_dir, 'undamaged files', 'damaged ones; see above')
  elif _DOWNLOAD.value is not None:
    for remote in catalog.DATA_SETS[_DOWNLOAD.value].remote:
      print(f'Downloaded {download.fetch(remote, pathlib.Path(data_dir))}')
  else:
    spec = run_flags.run_spec(methods.BASELINE.name, dict(clients_per_round=0))
    title = f'{spec.task}, partition {spec.partition}, seed {spec.seed}'
    describe(runner.build_task(spec), _MAX_CLIENTS.value, title, run_flags.output_folder())


def run() -> None:
  """Runs the command with the command-line arguments."""
  # All commands have this flag; here it is optional.
  flags.FLAGS.set_default('output_dir', 'runs/datasets')
  entry.run(main)
