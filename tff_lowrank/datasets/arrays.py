"""Client data of labelled examples, with an implementation for arrays in memory."""

import abc
import collections
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
import zlib

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import checks


class Split(NamedTuple):
  """A labelled set. x: [num_examples, ...], y: int32 [num_examples]."""

  x: np.ndarray
  y: np.ndarray


class Arrays(NamedTuple):
  train: Split
  test: Split


def checked_integers(name: str, values: np.ndarray, largest: int) -> np.ndarray:
  """Returns `values` of the feature `name`, checked before a cast that could overflow.

  Raises ValueError unless they are integers from 0 to `largest`.
  """
  values = np.asarray(values)
  if values.dtype.kind not in 'iu':
    raise ValueError(f'{name}: expected integers from 0 to {largest}, found {values.dtype}.')
  wrong = values[(values < 0) | (values > largest)]
  if wrong.size:
    raise ValueError(f'{name}: expected integers from 0 to {largest}, found {wrong.flat[0]}.')
  return values


def checked_texts(name: str, values: np.ndarray) -> np.ndarray:
  """Returns `values` of the feature `name`; raises ValueError unless all are texts, as bytes."""
  wrong = next((value for value in values if not isinstance(value, bytes)), None)
  if wrong is not None:
    raise ValueError(f'{name}: expected texts as bytes, found {wrong!r:.100}.')
  return values


def made_up(shape: tuple[int, ...], num_classes: int) -> Arrays:
  """Random bytes with labels: two training examples per class, at least 40; half as many for test.

  The same in every call. x: uint8 [num_examples, *shape].
  """
  rng = np.random.default_rng(0)

  def split(count: int) -> Split:
    labels = np.arange(count, dtype=np.int32) % num_classes
    return Split(rng.integers(0, 256, (count, *shape)).astype(np.uint8), labels)

  count = max(2 * num_classes, 40)
  return Arrays(split(count), split(count // 2))


class ExampleClientData(tff.simulation.datasets.ClientData):
  """Client data that can return the examples of one client as arrays.

  Elements are `OrderedDict(x=..., y=...)`.
  """

  @abc.abstractmethod
  def examples(self, client_id: str) -> Split:
    """The client's examples; raises ValueError if there is no such client."""

  def num_examples(self, client_id: str) -> int:
    return len(self.examples(client_id).y)

  def held_out(
    self, test_fraction: float, seed: int
  ) -> tuple['ExampleClientData', 'ExampleClientData']:
    """Splits each client's examples at random into a training set and a test set.

    Of n examples, `test_fraction` times n, rounded half to even, are for the test, but never all
    of them. The choice depends only on the seed and the client's id. Both results have the same
    ids; a client with few examples may have no test examples.

    Raises ValueError if `test_fraction` is not in [0, 1].
    """
    checks.check_in_range('test_fraction', test_fraction, 0, 1)
    return _HeldOut(self, 0, test_fraction, seed), _HeldOut(self, 1, test_fraction, seed)

  def only(self, client_ids: Sequence[str]) -> 'ExampleClientData':
    """The client data of these clients."""
    return _Only(self, sorted(client_ids))

  def sample(self, num_clients: int, seed: int) -> 'ExampleClientData':
    """The client data of `num_clients` clients, chosen by the seed.

    Raises ValueError if there are fewer clients.
    """
    if num_clients > len(self.client_ids):
      raise ValueError(f'There are {len(self.client_ids)} clients, expected {num_clients} or more.')
    rng = np.random.default_rng(seed)
    return self.only([str(c) for c in rng.permutation(self.client_ids)[:num_clients]])

  def create_tf_dataset_for_client(self, client_id: str) -> tf.data.Dataset:
    examples = self.examples(client_id)
    return tf.data.Dataset.from_tensor_slices(collections.OrderedDict(x=examples.x, y=examples.y))

  @property
  def serializable_dataset_fn(self) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """As `create_tf_dataset_for_client`, for an id tensor; works only in this process."""
    spec = self.element_type_structure

    def dataset_fn(client_id: tf.Tensor) -> tf.data.Dataset:
      tensors = tf.numpy_function(
        lambda c: tuple(self.examples(np.asarray(c).item().decode())),
        [client_id],
        [s.dtype for s in spec.values()],
      )
      for tensor, tensor_spec in zip(tensors, spec.values(), strict=True):
        tensor.set_shape([None, *tensor_spec.shape])
      return tf.data.Dataset.from_tensor_slices(
        collections.OrderedDict(zip(spec, tensors, strict=True))
      )

    return dataset_fn

  @property
  def element_type_structure(self) -> collections.OrderedDict[str, tf.TensorSpec]:
    """The type of the first client's examples."""
    examples = self.examples(self.client_ids[0])
    return collections.OrderedDict(
      (name, tf.TensorSpec(array.shape[1:], array.dtype))
      for name, array in examples._asdict().items()
    )


def _held_out_positions(
  num_examples: int, client_id: str, test_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """The indices of a client's training and test examples: see `ExampleClientData.held_out`."""
  rng = np.random.default_rng([seed, zlib.crc32(client_id.encode())])
  mixed = rng.permutation(num_examples)
  count = min(round(test_fraction * num_examples), max(num_examples - 1, 0))
  return np.sort(mixed[count:]), np.sort(mixed[:count])


class _Only(ExampleClientData):
  """Some clients of `whole`."""

  def __init__(self, whole: ExampleClientData, client_ids: list[str]):
    self._whole, self._client_ids = whole, client_ids

  @property
  def client_ids(self) -> list[str]:
    return self._client_ids

  def examples(self, client_id: str) -> Split:
    if client_id not in self._client_ids:
      raise ValueError(f'There is no client {client_id!r} among {len(self._client_ids)} clients.')
    return self._whole.examples(client_id)


class _HeldOut(ExampleClientData):
  """One of the results of `held_out` for `whole`: 0 is for training, 1 for testing."""

  def __init__(self, whole: ExampleClientData, part: int, test_fraction: float, seed: int):
    self._whole, self._part = whole, part
    self._test_fraction, self._seed = test_fraction, seed

  @property
  def client_ids(self) -> list[str]:
    return self._whole.client_ids

  def examples(self, client_id: str) -> Split:
    x, y = self._whole.examples(client_id)
    chosen = _held_out_positions(len(y), client_id, self._test_fraction, self._seed)[self._part]
    return Split(x[chosen], y[chosen])


class ArrayClientData(ExampleClientData):
  """Client data over arrays in memory."""

  def __init__(self, split: Split, indices: Mapping[str, np.ndarray]):
    """Creates the client data.

    Args:
      split: All examples.
      indices: Client id -> indices of its examples in `split`.
    """
    self._split = split
    self._indices = dict(indices)

  @property
  def client_ids(self) -> list[str]:
    return sorted(self._indices)

  def num_examples(self, client_id: str) -> int:
    return len(self._indices[client_id])

  def examples(self, client_id: str) -> Split:
    """The client's examples; raises ValueError if there is no such client."""
    if client_id not in self._indices:
      raise ValueError(f'There is no client {client_id!r} among {len(self._indices)} clients.')
    chosen = self._indices[client_id]
    return Split(self._split.x[chosen], self._split.y[chosen])

  def only(self, client_ids: Sequence[str]) -> 'ArrayClientData':
    return ArrayClientData(self._split, {c: self._indices[c] for c in client_ids})

  def held_out(
    self, test_fraction: float, seed: int
  ) -> tuple['ArrayClientData', 'ArrayClientData']:
    checks.check_in_range('test_fraction', test_fraction, 0, 1)
    train, test = {}, {}
    for client_id, indices in self._indices.items():
      kept, held = _held_out_positions(len(indices), client_id, test_fraction, seed)
      train[client_id], test[client_id] = indices[kept], indices[held]
    return ArrayClientData(self._split, train), ArrayClientData(self._split, test)

  @property
  def serializable_dataset_fn(self) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """As `create_tf_dataset_for_client` in TensorFlow ops, with all data in the graph."""
    ids = self.client_ids
    lengths = [len(self._indices[i]) for i in ids]
    flat = np.concatenate([self._indices[i] for i in ids])
    starts = np.cumsum([0, *lengths])

    def dataset_fn(client_id: tf.Tensor) -> tf.data.Dataset:
      is_client = tf.equal(tf.constant(ids), client_id)
      known = tf.debugging.Assert(tf.reduce_any(is_client), ['No such client:', client_id])
      with tf.control_dependencies([known]):
        position = tf.argmax(tf.cast(is_client, tf.int32))
      bounds = tf.gather(tf.constant(starts), [position, position + 1])
      chosen = tf.constant(flat)[bounds[0] : bounds[1]]
      return tf.data.Dataset.from_tensor_slices(
        collections.OrderedDict(
          x=tf.gather(self._split.x, chosen), y=tf.gather(self._split.y, chosen)
        )
      )

    return dataset_fn

  @property
  def element_type_structure(self) -> collections.OrderedDict[str, tf.TensorSpec]:
    return collections.OrderedDict(
      x=tf.TensorSpec(self._split.x.shape[1:], self._split.x.dtype),
      y=tf.TensorSpec((), self._split.y.dtype),
    )


def partitioned(split: Split, parts: list[np.ndarray]) -> ArrayClientData:
  """Client data with one client per array of indices, named in order."""
  width = len(str(len(parts) - 1))
  return ArrayClientData(split, {f'client_{k:0{width}d}': part for k, part in enumerate(parts)})
