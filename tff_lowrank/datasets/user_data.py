"""Converts a user's labelled examples, by client or without clients, to this package's client data.

By client: a `tff.simulation.datasets.ClientData`, read one client at a time, or a mapping from
client id to arrays. Without clients: arrays or a `tf.data.Dataset`. Data frames are in
`user_frames`.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.datasets import arrays

_LABEL_NAMES = ('y', 'label', 'labels', 'target', 'targets')
_BATCH_SIZE = 1024  # The number of examples read at once.
_LARGEST_LABEL = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class Format:
  """The format of examples.

  x_key, label_key: The keys if examples are mappings; None if there are two keys and one is a usual
    key of labels.
  classes: Whether labels are classes, or else numbers.
  """

  x_key: str | None = None
  label_key: str | None = None
  classes: bool = True

  def keys(self, where: str, names: Iterable[str]) -> tuple[str, str]:
    """The keys in `names` of the example and of its label."""
    names = list(names)
    if not set(names) >= {key for key in (self.x_key, self.label_key) if key is not None}:
      raise ValueError(
        f'{where}: expected entries {self.x_key!r} and {self.label_key!r}, found {names}.'
      )
    labels = [name for name in names if name in _LABEL_NAMES and name != self.x_key]
    label = self.label_key or (labels[0] if len(labels) == 1 else None)
    others = [name for name in names if name != label]
    x = self.x_key or (others[0] if len(others) == 1 else None)
    if x is None or label is None:
      raise ValueError(
        f'{where}: expected an example and its label, found entries {names}; set '
        '`x_key` and `label_key`.'
      )
    return x, label

  def split(self, where: str, x: Any, y: Any) -> arrays.Split:
    """Converts arrays of examples and labels to this package's dtypes.

    float64 becomes float32, as in Keras, and text becomes bytes. Classes become int32, of shape
    [n] if they are [n, 1], and numbers float32, of shape [n, 1] if they are [n].

    Raises ValueError if they cannot be converted, or have different lengths.
    """
    x, y = _array(where, 'examples', x), _array(where, 'labels', y)
    if not x.ndim or not y.ndim or len(x) != len(y):
      raise ValueError(
        f'{where}: expected a label for each example, found examples of shape {list(x.shape)} and '
        f'labels of shape {list(y.shape)}.'
      )
    return arrays.Split(x, self._labels(where, y))

  def _labels(self, where: str, y: np.ndarray) -> np.ndarray:
    if y.dtype == np.object_:
      raise ValueError(
        f'{where}: labels must be numbers, found text such as {y.flat[0]!r:.50}; convert them to '
        'classes with `numpy.unique(labels, return_inverse=True)`.'
      )
    if not self.classes:
      return (y[:, np.newaxis] if y.ndim == 1 else y).astype(np.float32)
    if y.dtype.kind not in 'biu':
      return y
    if y.dtype.kind != 'b':
      arrays.checked_integers(f'{where}: labels', y, _LARGEST_LABEL)
    return (y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y).astype(np.int32)


def _array(where: str, what: str, values: Any) -> np.ndarray:
  try:
    array = np.asarray(values)
    if array.dtype.kind in 'OSU':
      return tf.constant(array, tf.string).numpy()
  except (TypeError, ValueError) as e:
    raise ValueError(f'{where}: {what} must be one array, of numbers or text: {e}') from e
  return array.astype(np.float32) if array.dtype == np.float64 else array


def text_ids(ids: Iterable[Any]) -> dict[Any, str]:
  """Client ids as text; raises ValueError if two have the same text."""
  found: dict[str, Any] = {}
  for client_id in ids:
    text = client_id.decode() if isinstance(client_id, bytes) else str(client_id)
    if text in found:
      raise ValueError(f'Two clients have the id {text!r}: {found[text]!r} and {client_id!r}.')
    found[text] = client_id
  return {client_id: text for text, client_id in found.items()}


class MappingClientData(arrays.ExampleClientData):
  """Client data of arrays in memory, which are not copied."""

  def __init__(self, splits: Mapping[str, arrays.Split]):
    """Creates the client data; raises ValueError unless all clients have equal dtypes and ranks."""
    self._splits = dict(splits)
    kinds: dict[Any, str] = {}
    for client_id, split in self._splits.items():
      kind = tuple((array.dtype.name, *array.shape[1:]) for array in split)
      kinds.setdefault(kind, client_id)
    if len(kinds) > 1:
      (one, first), (other, second) = list(kinds.items())[:2]
      raise ValueError(
        f'Clients must have examples and labels of the same types and shapes, found {one} of '
        f'client {first!r} and {other} of client {second!r}.'
      )

  @property
  def client_ids(self) -> list[str]:
    return sorted(self._splits)

  def examples(self, client_id: str) -> arrays.Split:
    if client_id not in self._splits:
      raise ValueError(f'There is no client {client_id!r} among {len(self._splits)} clients.')
    return self._splits[client_id]


class TffClientData(arrays.ExampleClientData):
  """TFF's client data; a client is read each time it is needed."""

  def __init__(self, clients: tff.simulation.datasets.ClientData, form: Format):
    self._clients, self._form = clients, form
    self._client_ids = sorted(clients.client_ids)
    self._known = frozenset(self._client_ids)

  @property
  def client_ids(self) -> list[str]:
    return self._client_ids

  def examples(self, client_id: str) -> arrays.Split:
    """The client's examples; raises ValueError unless elements are an example and its label."""
    if client_id not in self._known:
      raise ValueError(f'There is no client {client_id!r} among {len(self._known)} clients.')
    dataset = self._clients.create_tf_dataset_for_client(client_id)
    return read_dataset(f'client {client_id!r}', dataset, self._form)


class Completed(arrays.ExampleClientData):
  """`whole` plus clients without examples."""

  def __init__(self, whole: arrays.ExampleClientData, client_ids: Sequence[str]):
    self._whole, self._with_examples = whole, frozenset(whole.client_ids)
    self._client_ids, self._known = sorted(client_ids), frozenset(client_ids)

  @property
  def client_ids(self) -> list[str]:
    return self._client_ids

  def examples(self, client_id: str) -> arrays.Split:
    if client_id in self._with_examples:
      return self._whole.examples(client_id)
    if client_id not in self._known:
      raise ValueError(f'There is no client {client_id!r} among {len(self._known)} clients.')
    x, y = self._whole.examples(self._whole.client_ids[0])
    return arrays.Split(x[:0], y[:0])


def _keys(where: str, spec: Any, form: Format) -> tuple[Any, Any]:
  """The keys of the example and the label in an element of a data set of type `spec`."""
  keys: tuple[Any, Any]
  if isinstance(spec, Mapping):
    keys = form.keys(where, spec)
  elif is_pair(spec):
    keys = (0, 1)
  else:
    raise ValueError(
      f'{where}: elements must be `(x, y)` or a mapping of an example and its label, found {spec}.'
    )
  if not all(isinstance(spec[key], tf.TensorSpec) for key in keys):
    raise ValueError(f'{where}: an example and its label must be one tensor each, found {spec}.')
  return keys


def read_dataset(where: str, dataset: tf.data.Dataset, form: Format) -> arrays.Split:
  """Reads all elements of a data set, which are single examples."""
  spec = dataset.element_spec
  parts = []
  for key in _keys(where, spec, form):
    shape = [0, *(length or 0 for length in spec[key].shape)]
    parts.append((key, [np.zeros(shape, spec[key].dtype.as_numpy_dtype)]))
  for batch in dataset.batch(_BATCH_SIZE).as_numpy_iterator():
    for key, part in parts:
      part.append(batch[key])
  # Without examples, only the type is known.
  return form.split(where, *(np.concatenate(part[1:] or part) for _, part in parts))


def is_pair(given: Any) -> bool:
  """Whether `given` is a pair of arrays `(x, y)`."""
  return isinstance(given, tuple) and len(given) == 2


def read_arrays(where: str, given: Any, form: Format) -> arrays.Split:
  """Reads arrays `(x, y)`, or a mapping of them."""
  if is_pair(given):
    return form.split(where, *given)
  if isinstance(given, Mapping):
    x, label = form.keys(where, given)
    return form.split(where, given[x], given[label])
  raise ValueError(
    f'{where}: expected arrays `(x, y)` or a mapping of them, found {type(given).__name__}.'
  )


def by_client(given: Any, form: Format) -> arrays.ExampleClientData | None:
  """Client data from `given`, or None if it is not grouped by client.

  Clients in memory without examples are dropped.
  """
  if isinstance(given, arrays.ExampleClientData):
    return given
  if isinstance(given, tff.simulation.datasets.ClientData):
    return TffClientData(given, form)
  if not isinstance(given, Mapping):
    return None
  values = given.values()
  if not all(is_pair(value) or isinstance(value, Mapping) for value in values):
    return None  # Arrays by name, not by client.
  ids = text_ids(given)
  splits = {
    ids[client_id]: read_arrays(f'client {client_id!r}', value, form)
    for client_id, value in given.items()
  }
  return MappingClientData({c: split for c, split in splits.items() if len(split.y)})


def pooled(clients: arrays.ExampleClientData) -> arrays.Split:
  """The examples of all clients, in the order of their ids."""
  parts = [clients.examples(client_id) for client_id in clients.client_ids]
  return arrays.Split(*(np.concatenate(part) for part in zip(*parts, strict=True)))
