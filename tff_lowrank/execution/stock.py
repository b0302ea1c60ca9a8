"""TFF's own local context, without the processes that it leaves behind."""

from collections.abc import Iterator
import contextlib

import psutil
import tensorflow_federated as tff


def _workers() -> set[psutil.Process]:
  return {child for child in psutil.Process().children() if child.name() == 'worker_binary'}


@contextlib.contextmanager
def stock_context() -> Iterator[tff.framework.SyncContext]:
  """Runs TFF computations on TFF's stock runtime inside a `with` block.

  The runtime is a worker process that TFF starts with the first computation. It can outlive its
  parent and keep the parent's output open, so it is ended when the block ends.
  """
  others = _workers()
  context = tff.backends.native.create_sync_local_cpp_execution_context()
  try:
    with tff.framework.get_context_stack().install(context):
      yield context
  finally:
    for worker in _workers() - others:
      worker.kill()
