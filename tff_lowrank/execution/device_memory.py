"""Values in a device's memory, handed between TensorFlow and XLA without the host.

On a GPU a round's values stay where they are: TensorFlow's tensors become jaxlib's buffers, and
buffers become tensors, by DLPack, which copies nothing. A result that lies on a GPU is given to
the program as a `DeviceArray`, which comes to the host when its numbers are asked for.
"""

from collections.abc import Sequence
import dataclasses
import threading
from typing import Any
import weakref

from jax import dlpack
from jax.experimental import enable_x64
import numpy as np
import tensorflow as tf

from tff_lowrank.execution import native
from tff_lowrank.execution import stored

# What is smaller goes by way of the host: handing it over takes longer than copying it.
_MIN_BYTES = 1 << 10
# How much of a device's memory a program may need, its arguments and results included; how much
# the results of rounds may keep, clients' memory included; and how much the data sets.
_SHARE_OF_PROGRAM = 0.5
_SHARE_OF_RESULTS = 0.2
_SHARE_OF_DATA = 0.2


@dataclasses.dataclass
class Traffic:
  """Bytes that went between the host and devices in this process."""

  to_device: int = 0
  to_host: int = 0


traffic = Traffic()


def is_on_device(tensor: Any) -> bool:
  """Whether a value is a large tensor in the memory of a GPU."""
  return isinstance(tensor, tf.Tensor) and _is_gpu(tensor) and _num_bytes(tensor) >= _MIN_BYTES


def _is_gpu(tensor: tf.Tensor) -> bool:
  return ':GPU:' in tensor.backing_device


def _num_bytes(tensor: tf.Tensor) -> int:
  return tensor.shape.num_elements() * tensor.dtype.size


def to_host(tensor: Any) -> np.ndarray:
  """A tensor or buffer as an array; what lies on a device is copied, and counted."""
  array = np.asarray(tensor)
  traffic.to_host += array.nbytes
  return array


def stack(arrays: Sequence[np.ndarray], capacity: int) -> np.ndarray:
  """[capacity, ...]: the arrays, then zeros."""
  stacked = np.zeros([capacity, *arrays[0].shape], arrays[0].dtype)
  for i, array in enumerate(arrays):
    stacked[i] = array
  return stacked


def _shared_tensor(buffer: Any) -> tf.Tensor:
  return tf.experimental.dlpack.from_dlpack(dlpack.to_dlpack(buffer))


def _memory_of_gpu(index: int) -> int | None:
  devices = native.xla_devices('gpu')
  return native.memory_bytes(devices[min(index, len(devices) - 1)]) if devices else None


class DeviceArray(stored.RemoteArray):
  """A result in a device's memory. tensor: TensorFlow's, which lies there."""

  def __init__(self, tensor: tf.Tensor):
    super().__init__(tuple(tensor.shape), tensor.dtype.as_numpy_dtype)
    self.tensor = tensor

  def fetch(self) -> np.ndarray:
    """Copies the numbers to the host."""
    return to_host(self.tensor)


class Results:
  """Gives results of rounds to the program; they stay on a device while there is room for them."""

  def __init__(self):
    self._num_bytes: dict[str, int] = {}
    self._lock = threading.Lock()

  def give(self, tensor: tf.Tensor) -> DeviceArray | np.ndarray:
    """A tensor for which `is_on_device`, there or on the host."""
    num_bytes, device = _num_bytes(tensor), tensor.backing_device
    limit = _memory_of_gpu(int(device.rpartition(':')[2]))
    with self._lock:
      kept = self._num_bytes.get(device, 0)
      if limit is not None and kept + num_bytes > _SHARE_OF_RESULTS * limit:
        return to_host(tensor)
      self._num_bytes[device] = kept + num_bytes
    array = DeviceArray(tensor)
    weakref.finalize(array, self._let_go, device, num_bytes)
    return array

  def _let_go(self, device: str, num_bytes: int) -> None:
    with self._lock:
      self._num_bytes[device] -= num_bytes


class DeviceMemory:
  """The memory of one device, as TensorFlow and jaxlib see it. device: jaxlib's."""

  def __init__(self, device: Any, in_tensorflow: str | None):
    """Hands over nothing yet.

    Args:
      device: jaxlib's device.
      in_tensorflow: TensorFlow's name of the same device, such as `/device:GPU:0`, if it is a GPU
        that both can use; else None, and values go by way of the host, which on the CPU copies
        nothing.
    """
    self.device, self._tensorflow = device, in_tensorflow
    self._limit = native.memory_bytes(device)

  @property
  def is_shared(self) -> bool:
    """Whether TensorFlow and jaxlib hand each other values that stay on the device."""
    return self._tensorflow is not None

  def put(self, value: Any) -> Any:
    """An array, tensor or buffer as jaxlib's buffer on the device."""
    if not isinstance(value, (np.ndarray, np.generic, tf.Tensor)):
      return value  # A buffer already.
    if self.is_shared and is_on_device(value):
      return self._from_tensorflow(value)
    array = np.asarray(value)
    if self.is_shared:
      traffic.to_device += array.nbytes
    return native.put(array, self.device)

  def _from_tensorflow(self, tensor: tf.Tensor) -> Any:
    with tf.device(self._tensorflow):
      tensor = tf.identity(tensor)  # Of another device, a copy.
    with enable_x64():
      buffer = dlpack.from_dlpack(tf.experimental.dlpack.to_dlpack(tensor))
      return buffer.astype(np.bool_) if tensor.dtype == tf.bool else buffer

  def tensor(self, buffer: Any) -> tf.Tensor:
    """A result of a program as TensorFlow's tensor."""
    if not self.is_shared:
      return tf.convert_to_tensor(np.asarray(buffer))
    if buffer.nbytes < _MIN_BYTES:
      return tf.convert_to_tensor(to_host(buffer))
    tensor = _shared_tensor(buffer)
    # DLPack's flags are bytes.
    return tf.cast(tensor, tf.bool) if buffer.dtype == np.bool_ else tensor

  def of_clients(self, buffer: Any, num_clients: int) -> list[tf.Tensor]:
    """The rows of a result, [capacity, ...], for each of the first `num_clients`.

    They are copies, so that none keeps the memory of all.
    """
    if self.is_shared and buffer.nbytes >= _MIN_BYTES:
      return tf.unstack(self.tensor(buffer)[:num_clients])
    array = np.asarray(buffer)
    with tf.device('/device:CPU:0'):
      return [tf.convert_to_tensor(np.array(array[i])) for i in range(num_clients)]

  def stack(self, tensors: Sequence[tf.Tensor], capacity: int) -> tf.Tensor | np.ndarray:
    """[capacity, ...]: the tensors, then zeros; on the device where one of them is."""
    if not (self.is_shared and any(map(is_on_device, tensors))):
      return stack([np.asarray(tensor) for tensor in tensors], capacity)
    with tf.device(self._tensorflow):
      zeros = [tf.zeros_like(tensors[0])] * (capacity - len(tensors))
      return tf.stack([*tensors, *zeros])

  def has_room_for_data(self, num_bytes: int) -> bool:
    """Whether so many bytes of data sets may be kept here."""
    return self._limit is None or num_bytes <= _SHARE_OF_DATA * self._limit

  def most_clients(self, num_bytes: int, num_clients: int) -> int:
    """How many clients fit, if a program for `num_clients` needs `num_bytes`; at least 1."""
    if self._limit is None or num_bytes <= _SHARE_OF_PROGRAM * self._limit:
      return num_clients
    return max(int(_SHARE_OF_PROGRAM * self._limit * num_clients / num_bytes), 1)
