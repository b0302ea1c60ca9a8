"""Passes values in a device's memory between TensorFlow and XLA without copies to the host.

On a GPU, the values of a round stay in its memory: DLPack turns TensorFlow's tensors into jaxlib's
buffers and back without a copy. A result on a GPU is returned to the program as a `DeviceArray`,
which is copied to the host when its numbers are read.
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

# Smaller values are copied through the host, which is faster than sharing them.
_MIN_BYTES = 1 << 10
# Fractions of a device's memory: what a program may need, with its arguments and results; what
# results of rounds may occupy, with client state; and what data sets may occupy.
_SHARE_OF_PROGRAM = 0.5
_SHARE_OF_RESULTS = 0.2
_SHARE_OF_DATA = 0.2


@dataclasses.dataclass
class Traffic:
  """The bytes copied between the host and devices in this process."""

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
  """A tensor or buffer as an array. The bytes are counted in `traffic`."""
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
  """A result in a device's memory. tensor: TensorFlow's tensor, in this memory."""

  def __init__(self, tensor: tf.Tensor):
    super().__init__(tuple(tensor.shape), tensor.dtype.as_numpy_dtype)
    self.tensor = tensor

  def fetch(self) -> np.ndarray:
    """Copies the numbers to the host."""
    return to_host(self.tensor)


class Results:
  """Returns results of rounds to the program. They stay on the device while there is room."""

  def __init__(self):
    self._num_bytes: dict[str, int] = {}
    self._lock = threading.Lock()

  def give(self, tensor: tf.Tensor) -> DeviceArray | np.ndarray:
    """A tensor for which `is_on_device` is true, as an array on the device or the host."""
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
  """The memory of one device, for TensorFlow and jaxlib. device: jaxlib's device."""

  def __init__(self, device: Any, in_tensorflow: str | None):
    """Creates the memory.

    Args:
      device: jaxlib's device.
      in_tensorflow: TensorFlow's name of the same device, such as `/device:GPU:0`, if it is a GPU
        that both can use. Else None; values then go through the host, on a CPU without a copy.
    """
    self.device, self._tensorflow = device, in_tensorflow
    self._limit = native.memory_bytes(device)

  @property
  def is_shared(self) -> bool:
    """Whether TensorFlow and jaxlib share values in the device's memory."""
    return self._tensorflow is not None

  def put(self, value: Any) -> Any:
    """An array, tensor or buffer as jaxlib's buffer on the device."""
    if not isinstance(value, (np.ndarray, np.generic, tf.Tensor)):
      return value  # It is a buffer already.
    if self.is_shared and is_on_device(value):
      return self._from_tensorflow(value)
    array = np.asarray(value)
    if self.is_shared:
      traffic.to_device += array.nbytes
    return native.put(array, self.device)

  def _from_tensorflow(self, tensor: tf.Tensor) -> Any:
    with tf.device(self._tensorflow):
      tensor = tf.identity(tensor)  # A copy, if it is on another device.
    with enable_x64():
      buffer = dlpack.from_dlpack(tf.experimental.dlpack.to_dlpack(tensor))
      return buffer.astype(np.bool_) if tensor.dtype == tf.bool else buffer

  def tensor(self, buffer: Any) -> tf.Tensor:
    """A program's result as a TensorFlow tensor."""
    if not self.is_shared:
      return tf.convert_to_tensor(np.asarray(buffer))
    if buffer.nbytes < _MIN_BYTES:
      return tf.convert_to_tensor(to_host(buffer))
    tensor = _shared_tensor(buffer)
    # DLPack passes booleans as bytes.
    return tf.cast(tensor, tf.bool) if buffer.dtype == np.bool_ else tensor

  def of_clients(self, buffer: Any, num_clients: int) -> list[tf.Tensor]:
    """The rows of a result, [capacity, ...], one for each of the first `num_clients` clients.

    They are copies, so that one row does not keep the memory of all rows.
    """
    if self.is_shared and buffer.nbytes >= _MIN_BYTES:
      return tf.unstack(self.tensor(buffer)[:num_clients])
    array = np.asarray(buffer)
    with tf.device('/device:CPU:0'):
      return [tf.convert_to_tensor(np.array(array[i])) for i in range(num_clients)]

  def stack(self, tensors: Sequence[tf.Tensor], capacity: int) -> tf.Tensor | np.ndarray:
    """[capacity, ...]: the tensors, then zeros; on the device if one of them is there."""
    if not (self.is_shared and any(map(is_on_device, tensors))):
      return stack([np.asarray(tensor) for tensor in tensors], capacity)
    with tf.device(self._tensorflow):
      zeros = [tf.zeros_like(tensors[0])] * (capacity - len(tensors))
      return tf.stack([*tensors, *zeros])

  def has_room_for_data(self, num_bytes: int) -> bool:
    """Whether data sets of this size may be kept on the device."""
    return self._limit is None or num_bytes <= _SHARE_OF_DATA * self._limit

  def most_clients(self, num_bytes: int, num_clients: int) -> int:
    """How many clients fit, if a program for `num_clients` needs `num_bytes`; at least 1."""
    if self._limit is None or num_bytes <= _SHARE_OF_PROGRAM * self._limit:
      return num_clients
    return max(int(_SHARE_OF_PROGRAM * self._limit * num_clients / num_bytes), 1)
