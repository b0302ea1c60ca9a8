"""Convolutional Keras layers with factorised kernels, for any factorisation.

Convolutions along one, two or three axes, with one or more groups, can have either form; depthwise
kernels, and both kernels of a separable convolution, are factorised as matrices. The derivation is
in `ranks.kernel_view`.
"""

import math
from typing import Any

import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank.layers import factored
from tff_lowrank.layers import ranks


class TuckerOrMatrix(factored.Factored):
  """A mixin for convolutions that can have either form; it comes before the factorisation's mixin.

  form: `'tucker'` for Tucker factors (Proposition 3 in FedPara), `'matrix'` for those of the
    matrix [outputs, window x inputs] (Proposition 1).
  """

  def __init__(self, *args: Any, form: str = 'tucker', **kwargs: Any):
    checks.check_one_of('form', form, ranks.FORMS)
    super().__init__(*args, **kwargs)
    self.form = form

  @property
  def settings(self) -> dict[str, Any]:
    return super().settings | dict(form=self.form)


class Convolution(factored.Linear):
  """Shared by the mixins below, which are for Keras layers with any number of axes."""

  num_positional = 9

  def channels_of(self, input_shape: Any) -> int:
    """The number of channels of the input; later inputs must have the same."""
    axis = -1 if self.data_format == 'channels_last' else -1 - self.rank
    channels = tf.TensorShape(input_shape)[axis]
    if channels is None:
      raise ValueError(f'The number of channels must be known, found shape {input_shape}.')
    self.compute_output_shape(input_shape)  # Raises for windows larger than the image.
    self.input_spec = tf.keras.layers.InputSpec(min_ndim=self.rank + 2, axes={axis: channels})
    return channels


class Grouped(Convolution):
  """A convolution with one or more groups and kernel [*window, channels / groups, filters]."""

  def build(self, input_shape: Any) -> None:
    channels = self.channels_of(input_shape)
    if channels % self.groups:
      raise ValueError(
        f'The number of channels must be a multiple of `groups`, found {channels} channels and '
        f'{self.groups} groups.'
      )
    shape = (*self.kernel_size, channels // self.groups, self.filters)
    self.add_kernel('kernel', shape, factored.he_variance(shape), self.kernel_regularizer)
    self.add_bias([self.filters])
    self.built = True

  @property
  def kernel(self) -> tf.Tensor:
    return self.compose('kernel')


class Depthwise(Convolution):
  """A convolution of each channel, with the kernel [*window, channels, depth_multiplier]."""

  num_positional = 8

  def build(self, input_shape: Any) -> None:
    channels = self.channels_of(input_shape)
    self.add_depthwise_kernel(channels, 2 / math.prod(self.kernel_size))  # He's variance.
    self.add_bias([channels * self.depth_multiplier])
    self.built = True

  def add_depthwise_kernel(self, channels: int, variance: float) -> None:
    """Adds the kernel for this many channels, with entries of this variance at the start."""
    shape = (*self.kernel_size, channels, self.depth_multiplier)
    self.add_kernel(ranks.DEPTHWISE_KERNEL, shape, variance, self.depthwise_regularizer)

  @property
  def depthwise_kernel(self) -> tf.Tensor:
    return self.compose(ranks.DEPTHWISE_KERNEL)


class Separable(Depthwise):
  """A depthwise convolution, and a matrix from its outputs to the filters."""

  num_positional = 9

  def build(self, input_shape: Any) -> None:
    channels = self.channels_of(input_shape)
    # Half of He's variance: no ReLU follows.
    self.add_depthwise_kernel(channels, 1 / math.prod(self.kernel_size))
    shape = (*(1,) * self.rank, channels * self.depth_multiplier, self.filters)
    variance = factored.he_variance(shape)
    self.add_kernel('pointwise_kernel', shape, variance, self.pointwise_regularizer)
    self.add_bias([self.filters])
    self.built = True

  @property
  def pointwise_kernel(self) -> tf.Tensor:
    return self.compose('pointwise_kernel')


class FactoredConv1D(Grouped, tf.keras.layers.Conv1D):
  """keras.layers.Conv1D with a factorised kernel."""

  plain = tf.keras.layers.Conv1D


class FactoredConv2D(Grouped, tf.keras.layers.Conv2D):
  """keras.layers.Conv2D with a factorised kernel."""

  plain = tf.keras.layers.Conv2D


class FactoredConv3D(Grouped, tf.keras.layers.Conv3D):
  """keras.layers.Conv3D with a factorised kernel."""

  plain = tf.keras.layers.Conv3D


class FactoredDepthwiseConv1D(Depthwise, tf.keras.layers.DepthwiseConv1D):
  """keras.layers.DepthwiseConv1D with a factorised kernel."""

  plain = tf.keras.layers.DepthwiseConv1D


class FactoredDepthwiseConv2D(Depthwise, tf.keras.layers.DepthwiseConv2D):
  """keras.layers.DepthwiseConv2D with a factorised kernel."""

  plain = tf.keras.layers.DepthwiseConv2D


class FactoredSeparableConv1D(Separable, tf.keras.layers.SeparableConv1D):
  """keras.layers.SeparableConv1D with factorised kernels."""

  plain = tf.keras.layers.SeparableConv1D


class FactoredSeparableConv2D(Separable, tf.keras.layers.SeparableConv2D):
  """keras.layers.SeparableConv2D with factorised kernels."""

  plain = tf.keras.layers.SeparableConv2D
