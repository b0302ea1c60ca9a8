"""Runs computations in threads, with calls of TensorFlow that can be cancelled.

Python runs no signal handler during a call of TensorFlow, and a data set may never end. So a
computation runs in its own threads. The thread that waits for them cancels their TensorFlow calls:
on Ctrl-C, or when another client has failed. The threads are daemons, so that the process can exit
while one waits in a user's generator, which TensorFlow cannot cancel.
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
  """The `native.Calls` of this thread."""
  return getattr(_local, 'calls', None) or native.Calls()


@contextlib.contextmanager
def _using(calls: native.Calls) -> Iterator[None]:
  _local.calls = calls
  try:
    yield
  finally:
    del _local.calls


def call(function: Callable[..., list[tf.Tensor]], *arguments: Any) -> list[tf.Tensor]:
  """Calls a concrete function of tensors. During tracing, the call becomes part of the graph."""
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
  """The elements of a data set. Raises ValueError if it is known to be infinite."""
  if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
    raise ValueError(
      'Cannot read all of an infinite data set. Make it finite with '
      '`dataset.take(number_of_batches)`, or with a number in `dataset.repeat(number)`.'
    )
  return _calls().elements(dataset)


def start(work: Callable[[], T]) -> tuple[concurrent.futures.Future[T], native.Calls]:
  """Starts `work()` in a thread. Returns the future of its result, and its calls, to cancel it."""
  native.check_not_forked()
  calls = native.Calls()
  future: concurrent.futures.Future[T] = concurrent.futures.Future()

  def run() -> None:
    with _using(calls):
      result, error = _attempt(work)
    if error is None:
      future.set_result(result)
    else:
      # If it was cancelled, raise the reason.
      future.set_exception((_is_cancellation(error) and calls.reason) or error)

  threading.Thread(target=run, name='tff_lowrank', daemon=True).start()
  return future, calls


def run(work: Callable[[], T]) -> T:
  """Runs `work()` in a thread. If waiting for it is interrupted, its TensorFlow calls end."""
  future, calls = start(work)
  try:
    return future.result()
  except BaseException:
    calls.cancel()
    raise


def _attempt(work: Callable[[], T]) -> tuple[Any, BaseException | None]:
  """The result of `work()` and None, or None and its error."""
  try:
    return work(), None
  except BaseException as e:
    return None, e


def _is_cancellation(error: BaseException) -> bool:
  """Whether an error is only the result of a cancellation."""
  return any(isinstance(e, tf.errors.CancelledError) for e in (error, error.__cause__))


def in_order(function: Callable[[Any], T], work: Sequence[Any], num_threads: int) -> Iterator[T]:
  """Calls `function(item)` in threads for each item of `work`; yields the results in order.

  At most `2 * num_threads` results are made before they are taken. If a call fails, its error is
  raised at once: no new calls start, and TensorFlow calls of the others are cancelled.
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
          # When one call fails, TensorFlow cancels all. The thread of that call has the reason.
          cancellations.append(error)
          break
        else:
          fail(error)
          break
    free.release()  # A thread that waits for this ends too, for the same reason.
    with lock:
      num_running -= 1
      is_last = num_running == 0
    if is_last and (cancellations or calls.is_cancelled):  # If no call failed.
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
