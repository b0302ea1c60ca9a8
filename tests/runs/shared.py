"""Runs of one process of tests share what they would each build, trace and compile alike.

To build a process, trace it and compile it takes most of the time of a small run. Tests train the
same few settings again and again: for other rounds, into other folders, with other faults.
"""

import collections
from collections.abc import Callable, Iterator
import contextlib
import threading
from typing import Any
from unittest import mock

import tensorflow as tf

from tff_lowrank import execution
from tff_lowrank import tasks
from tff_lowrank.runs import contexts
from tff_lowrank.runs import processes
from tff_lowrank.runs import runner
from tff_lowrank.simulation import evaluation

# Settings of a run that its process is not built of: `processes.build_parts` takes none of them.
NOT_OF_THE_PROCESS = frozenset(
  ('rounds', 'clients_per_round', 'client_epochs', 'batch_size', 'eval_every', 'context',
   'client_memory', 'dropout_rate', 'straggler_deadline')
)  # fmt: skip
SIZE = 16

_here = threading.local()


class _Kept:
  """The newest results of a function, by a key and by the identity of some arguments."""

  def __init__(self):
    self._found = collections.OrderedDict()

  def get(self, make: Callable[[], Any], key: Any, *identities: Any) -> Any:
    """What `make` gave for these; objects with identities are kept, so that none is used again."""
    key = (key, *map(id, identities))
    if key not in self._found:
      self._found[key] = (make(), identities)
    self._found.move_to_end(key)
    if len(self._found) > SIZE:
      self._found.popitem(last=False)
    return self._found[key][0]


def _within_runs(plain: Callable[..., Any], shared: Callable[..., Any]) -> Callable[..., Any]:
  """Calls `shared` with `plain` inside runs, and `plain` elsewhere."""

  def call(*arguments: Any, **named: Any) -> Any:
    if getattr(_here, 'is_run', False):
      return shared(plain, *arguments, **named)
    return plain(*arguments, **named)

  return call


@contextlib.contextmanager
def installed() -> Iterator[None]:
  """Inside, runs share tasks, models, processes, evaluations and the context."""
  context, opened = execution.create_local_context(), contexts.opened
  built, models, made, central, of_clients = (_Kept() for _ in range(5))

  @contextlib.contextmanager
  def open_run(spec):
    before = getattr(_here, 'is_run', False)
    _here.is_run = True
    try:
      with opened(spec):
        yield
    finally:
      _here.is_run = before

  def build_task(plain, spec):
    if spec.task not in tasks.NAMES or spec.data_dir not in (None, 'synthetic'):
      return plain(spec)
    return built.get(lambda: plain(spec), repr(sorted(runner.task_arguments(spec).items())))

  def build_model(plain, task, seed):
    tf.keras.utils.set_random_seed(seed)  # As `plain` does.
    # All that it is built of: tasks are copied, with other clients and the like.
    parts = (task.keras_model_fn, task.preprocess, task.objective, task.test)
    return models.get(lambda: plain(task, seed), (seed, task.name), *parts)

  def build_process(plain, spec, model, keras_model_fn, num_clients):
    settings = {k: v for k, v in spec.as_dict().items() if k not in NOT_OF_THE_PROCESS}
    key = (repr(sorted(settings.items())), num_clients)
    make = lambda: plain(spec, model, keras_model_fn, num_clients)  # noqa: E731
    return made.get(make, key, spec.record, model, keras_model_fn)

  def metrics_on(plain, model):
    return central.get(lambda: plain(model), None, model)

  def metrics_of_clients(plain, model, process):
    return of_clients.get(lambda: plain(model, process), None, model, process)

  with contextlib.ExitStack() as stack:
    stack.enter_context(mock.patch.dict(contexts._SIMPLE, local=context.installed))
    stack.enter_context(mock.patch.object(contexts, 'opened', open_run))
    for owner, name, shared in (
      (runner, 'build_task', build_task),
      (tasks.Task, 'build_model', build_model),
      (processes, 'build_process', build_process),
      (evaluation, '_build_metrics_on', metrics_on),
      (evaluation, '_build_metrics_of_clients', metrics_of_clients),
    ):
      function = _within_runs(getattr(owner, name), shared)
      stack.enter_context(mock.patch.object(owner, name, function))
    yield
