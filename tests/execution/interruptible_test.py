import functools
import threading
import time

import pytest
import tensorflow as tf

from tff_lowrank.execution import interruptible

SCALAR = tf.TensorSpec([], tf.int64)


def _wait_for_ever():
  while True:
    time.sleep(0.01)
    yield from ()


NUMBERS = tf.data.Dataset.range(10)
# None says of itself that it never ends. The last waits in Python, where it cannot be cancelled.
ENDLESS = {
  'filter': NUMBERS.repeat().filter(lambda x: x < 0),
  'flat_map': NUMBERS.flat_map(lambda _: tf.data.Dataset.range(3).repeat()),
  'reduce': NUMBERS.map(lambda x: tf.data.Dataset.range(3).repeat().reduce(x, lambda a, _: a)),
  'generator': tf.data.Dataset.from_generator(_wait_for_ever, output_signature=SCALAR),
}


def read(dataset):
  return [int(x) for x in interruptible.elements(dataset)]


def test_elements_and_calls():
  pairs = tf.data.Dataset.zip({'a': tf.data.Dataset.range(2), 'b': tf.data.Dataset.range(2, 4)})
  found = interruptible.run(lambda: list(interruptible.elements(pairs)))
  assert [(int(e['a']), int(e['b'])) for e in found] == [(0, 2), (1, 3)]
  add = tf.function(lambda x, y: [x + y, x]).get_concrete_function(SCALAR, SCALAR)
  two, three = tf.constant(2, tf.int64), tf.constant(3, tf.int64)
  assert [int(t) for t in interruptible.call(add, two, three)] == [5, 2]
  nested = tf.function(lambda x: [interruptible.call(add, x, x)[0] + 1])
  assert int(nested(two)[0]) == 5


def test_a_known_endless_data_set_is_refused():
  with pytest.raises(ValueError, match='an infinite data set. Make it finite'):
    read(NUMBERS.repeat())


@pytest.mark.parametrize('name', ENDLESS)
def test_reading_ends_when_it_is_cancelled(name):
  future, calls = interruptible.start(lambda: read(ENDLESS[name]))
  time.sleep(0.2)
  assert not future.done()
  calls.cancel()
  if name != 'generator':
    with pytest.raises(tf.errors.CancelledError):
      future.result(timeout=60)


def test_results_come_in_order_and_few_wait():
  started = []

  def work(item):
    started.append(item)
    time.sleep(0.02 if item % 2 else 0)
    return item * item

  results = interruptible.in_order(work, range(20), 2)
  assert next(results) == 0
  time.sleep(0.3)
  assert len(started) <= 5
  assert list(results) == [i * i for i in range(1, 20)]


@pytest.mark.parametrize('name', ENDLESS)
def test_an_error_in_one_ends_the_others(name):
  def work(item):
    if item == 1:
      time.sleep(0.1)
      raise KeyError('broken')
    return read(ENDLESS[name])

  with pytest.raises(KeyError, match='broken'):
    interruptible.run(lambda: list(interruptible.in_order(work, range(5), 2)))


def test_threads_end():
  before = threading.active_count()
  for _ in range(5):
    interruptible.run(lambda: list(interruptible.in_order(lambda i: i, range(9), 4)))
    with pytest.raises(ZeroDivisionError):
      interruptible.run(lambda: list(interruptible.in_order(lambda i: 1 // i, range(9), 4)))
  time.sleep(0.5)
  assert threading.active_count() <= before


def _endless_first(item, go):
  return item if item else read(ENDLESS['filter'])


def _all_at_once(item, go):
  go.wait()
  return item


@pytest.mark.parametrize('function', [_endless_first, _all_at_once])
def test_threads_end_when_cancelled_between_clients(function):
  """Either the others wait for the first client's result to be taken, or none is in TensorFlow."""
  before, go = threading.active_count(), threading.Event()
  work = functools.partial(function, go=go)
  future, calls = interruptible.start(lambda: list(interruptible.in_order(work, range(9), 2)))
  time.sleep(0.5)
  calls.cancel()
  go.set()
  with pytest.raises(tf.errors.CancelledError):
    future.result(timeout=20)
  time.sleep(0.5)
  assert threading.active_count() <= before
