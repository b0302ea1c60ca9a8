"""Recurrent Keras layers with factorised kernels, for any factorisation.

`FactoredLSTM` and `FactoredGRU` take the arguments of keras.layers.LSTM and keras.layers.GRU and
compute the same (masks, states, dropout, direction are keras.layers.RNN's), without cuDNN. Each
kernel is composed once per sequence. The cells can also be used in keras.layers.RNN, where kernels
are composed at each step.
As in FedPara (ICLR 2022, arXiv 2108.06098), the matrices [inputs, gates x units] and
[units, gates x units] are factorised, each as a whole.
"""

from collections.abc import Iterator
import contextlib
from typing import Any

import tensorflow as tf

from tff_lowrank.layers import factored
from tff_lowrank.layers import kernel as kernel_lib

_SEQUENCE_ARGUMENTS = (
  'return_sequences',
  'return_state',
  'go_backwards',
  'stateful',
  'unroll',
  'time_major',
  'zero_output_for_mask',
  'name',
  'trainable',
  'input_shape',
  'batch_input_shape',
  'activity_regularizer',
)


class FactoredCell(factored.Factored):
  """A mixin shared by the cells, for Keras cells that use `kernel` and `recurrent_kernel`."""

  num_gates = 0
  num_positional = 4

  def __init__(self, *args: Any, **kwargs: Any):
    super().__init__(*args, **kwargs)
    self._composed: dict[str, tf.Tensor] | None = None

  def build(self, input_shape: Any) -> None:
    inputs, outputs = tf.TensorShape(input_shape)[-1], self.num_gates * self.units
    # The variances of Keras' default initialisers: Glorot's, and that of orthonormal rows.
    self.add_kernel('kernel', (inputs, outputs), 2 / (inputs + outputs), self.kernel_regularizer)
    self.add_kernel(
      'recurrent_kernel', (self.units, outputs), 1 / outputs, self.recurrent_regularizer
    )
    self.add_cell_bias()
    self.built = True

  def add_cell_bias(self) -> None:
    """Adds the bias of the plain cell."""
    raise NotImplementedError

  @contextlib.contextmanager
  def composed_once(self) -> Iterator[None]:
    """Inside, the kernels are composed only once."""
    composed = {name: self.compose(name) for name in self.factored_kernels}
    outer, self._composed = self._composed, composed
    try:
      yield
    finally:
      self._composed = outer

  @property
  def kernel(self) -> tf.Tensor:
    return self._composed['kernel'] if self._composed else self.compose('kernel')

  @property
  def recurrent_kernel(self) -> tf.Tensor:
    composed = self._composed
    return composed['recurrent_kernel'] if composed else self.compose('recurrent_kernel')


class FactoredLSTMCell(FactoredCell, tf.keras.layers.LSTMCell):
  """keras.layers.LSTMCell with factorised kernels."""

  num_gates = 4

  def add_cell_bias(self) -> None:
    forget_one = None
    if self.unit_forget_bias:

      def forget_one(shape: Any, dtype: Any = None, **kwargs: Any) -> tf.Tensor:
        del kwargs
        initial = self.bias_initializer(shape, dtype=dtype)
        forget = tf.ones([self.units], dtype)
        return tf.concat([initial[: self.units], forget, initial[2 * self.units :]], 0)

    self.add_bias([4 * self.units], forget_one)


class FactoredGRUCell(FactoredCell, tf.keras.layers.GRUCell):
  """keras.layers.GRUCell with factorised kernels."""

  num_gates = 3

  def add_cell_bias(self) -> None:
    outputs = 3 * self.units
    self.add_bias([2, outputs] if self.reset_after else [outputs])


class FactoredRNN(tf.keras.layers.RNN):
  """A sequence layer with a factorised cell; its constructor takes the arguments of both."""

  cell_class = FactoredCell

  def __init__(self, *args: Any, **kwargs: Any):
    own = {name: kwargs.pop(name) for name in _SEQUENCE_ARGUMENTS if name in kwargs}
    if 'dtype' in kwargs:
      own['dtype'] = kwargs['dtype']
    super().__init__(self.cell_class(*args, **kwargs), **own)

  @property
  def units(self) -> int:
    return self.cell.units

  @property
  def settings(self) -> dict[str, Any]:
    """The constructor's arguments that the plain Keras layer does not have."""
    return self.cell.settings

  @property
  def factored_kernels(self) -> dict[str, kernel_lib.FactoredKernel]:
    """The kernels of the cell by the name of its attribute; empty before `build`."""
    return self.cell.factored_kernels

  def call(self, inputs: tf.Tensor, *args: Any, **kwargs: Any) -> Any:
    with self.cell.composed_once():
      return super().call(inputs, *args, **kwargs)

  def build_from_config(self, config: dict[str, Any]) -> None:
    super().build_from_config(factored.with_tuples(config))

  def get_config(self) -> dict[str, Any]:
    config = super().get_config()
    del config['cell']
    regularizer = tf.keras.regularizers.serialize(self.activity_regularizer)
    return self.cell.get_config() | config | dict(activity_regularizer=regularizer)

  @classmethod
  def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> 'FactoredRNN':
    del custom_objects
    return cls(**config)
