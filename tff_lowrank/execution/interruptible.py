"""Threads that a computation runs in, and calls of TensorFlow that can be cancelled there.

Python runs no signal handler while TensorFlow works, and a data set may never end. So a
computation runs in threads of its own. Whoever waits for them cancels what TensorFlow does
there: on Ctrl-C, or when another client has failed. The threads are daemons: one that TensorFlow
cannot cancel, since it waits in a generator of the user's, does not keep the process from ending.
"""

import collections
from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import contextlib
import functools
import threading
from typing import Any, TypeVar

import tensorflow as tf

from tff_lowrank.execution import native

T = TypeVar('T')

_local = threading.local()


def _calls() -> native.Calls:
  """How this thread calls TensorFlow."""
  return getattr(_local, 'calls', None) or native.Calls()


@contextlib.contextmanager
def _using(calls: native.Calls) -> Iterator[None]:
  _local.calls = calls
  try:
    yield
  finally:
    del _local.calls


def call(function: Callable[..., list[tf.Tensor]], *arguments: Any) -> list[tf.Tensor]:
  """Calls a concrete function of tensors; while a graph is traced, it becomes part of it."""
  if not tf.executing_eagerly():
    return function(*arguments)
  return _calls().function(function, arguments)


def prepare(function: Callable[..., list[tf.Tensor]], arguments: Sequence[Any] | None) -> bool:
  """As `native.Calls.prepare`."""
  return _calls().prepare(function, arguments)


def check_not_cancelled() -> None:
  """Raises `tf.errors.CancelledError` if the computation of this thread was cancelled."""
  if _calls().is_cancelled:
    raise tf.errors.CancelledError(None, None, 'Cancelled between two clients.')


def elements(dataset: tf.data.Dataset) -> Iterator[Any]:
  """The elements of a data set. Raises ValueError for one that is known never to end."""
  if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
    raise ValueError(
      'A data set that never ends cannot be read to its end: its cardinality is infinite. Bound '
      'it, with `dataset.take(number_of_batches)`, or by a number in `dataset.repeat(number)`.'
    )
  return _calls().elements(dataset)


def start(work: Callable[[], T]) -> tuple[concurrent.futures.Future[T], native.Calls]:
  """Starts `work()` in a thread; returns its future result, and what can cancel it."""
  native.check_not_forked()
  calls = native.Calls()
  future: concurrent.futures.Future[T] = concurrent.futures.Future()

  def run() -> None:
    with _using(calls):
      result, error = _attempt(work)
    if error is None:
      future.set_result(result)
    else:
      # Where it was cancelled, for what.
      future.set_exception((_is_cancellation(error) and calls.reason) or error)

  threading.Thread(target=run, name='tff_lowrank', daemon=True).start()
  return future, calls


def run(work: Callable[[], T]) -> T:
  """`work()`, which ends, as far as TensorFlow can end it, if waiting for it is interrupted."""
  future, calls = start(work)
  try:
    return future.result()
  except BaseException:
    calls.cancel()
    raise


def _attempt(work: Callable[[], T]) -> tuple[Any, BaseException | None]:
  """The result of `work()` and None, or None and the error."""
  try:
    return work(), None
  except BaseException as e:
    return None, e


def _is_cancellation(error: BaseException) -> bool:
  """Whether something failed only because it was cancelled."""
  return any(isinstance(e, tf.errors.CancelledError) for e in (error, error.__cause__))


def in_order(function: Callable[[Any], T], work: Sequence[Any], num_threads: int) -> Iterator[T]:
  """`function(item)` for each item of `work`, in its order, made in threads.

  At most `2 * num_threads` results wait to be taken. An error in any of them is raised here at
  once: nothing new begins, and what TensorFlow does for the others is cancelled.
  """
  if num_threads <= 1:
    yield from map(function, work)
    return
  calls = _calls()
  futures: collections.deque[concurrent.futures.Future[T]] = collections.deque(
    concurrent.futures.Future() for _ in work
  )
  todo = iter(list(zip(work, futures, strict=True)))
  free = threading.Semaphore(2 * num_threads)
  lock = threading.Lock()
  num_running = num_threads
  cancellations: list[BaseException] = []

  def fail(error: BaseException) -> None:
    for future in list(futures):
      with contextlib.suppress(concurrent.futures.InvalidStateError):
        future.set_exception(error)
    calls.cancel(error)

  def run() -> None:
    nonlocal num_running
    with _using(calls):
      while free.acquire():
        with lock:
          item, future = next(todo, (None, None))
        if future is None or calls.is_cancelled or cancellations:
          break
        result, error = _attempt(functools.partial(function, item))
        if error is None:
          with contextlib.suppress(concurrent.futures.InvalidStateError):
            future.set_result(result)
        elif _is_cancellation(error):
          # TensorFlow cancels all calls when one fails: the thread of that one says why.
          cancellations.append(error)
          break
        else:
          fail(error)
          break
    free.release()  # A thread that waits for it ends too, for the same reason.
    with lock:
      num_running -= 1
      is_last = num_running == 0
    if is_last and (cancellations or calls.is_cancelled):  # If none failed.
      between = tf.errors.CancelledError(None, None, 'Cancelled between two clients.')
      fail(cancellations[0] if cancellations else between)

  for _ in range(num_threads):
    threading.Thread(target=run, name='tff_lowrank_clients', daemon=True).start()
  try:
    while futures:
      yield futures[0].result()
      futures.popleft()
      free.release()
  except BaseException:
    calls.cancel()
    raise
  finally:
    free.release(num_threads)
