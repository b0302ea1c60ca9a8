"""Keras layers with factorised kernels, for any factorisation.

Each is a Keras layer with the same constructor, but its kernel is composed from factors; subclasses
define how (`fedpara`, `low_rank`, `adapters`). Differences from the plain layer:
  kernel regularizers apply to each factor, as weight decay does in the papers, not to the kernel;
  kernel initializers and constraints are not allowed;
  `kernel` (`recurrent_kernel`, `embeddings`) is a composed tensor, not a variable.
"""

from collections.abc import Sequence
import math
from typing import Any

import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank.layers import factorization as factorization_lib
from tff_lowrank.layers import kernel as kernel_lib
from tff_lowrank.layers import ranks

PACKAGE = 'tff_lowrank'

# Variance of keras.layers.Embedding's initialisation, uniform in [-0.05, 0.05].
EMBEDDING_VARIANCE = 0.1**2 / 12

_WITHOUT_MEANING = tuple(
  f'{name}_{kind}'
  for name in ('kernel', 'recurrent', 'embeddings', 'depthwise', 'pointwise')
  for kind in ('initializer', 'constraint')
)


def he_variance(kernel_shape: Sequence[int]) -> float:
  """He et al.'s variance for a kernel before ReLU: 2 / fan-in."""
  return 2 / math.prod(kernel_shape[:-1])


def with_tuples(build_config: dict[str, Any]) -> dict[str, Any]:
  """The saved argument of `build_from_config`, with each shape converted from list to tuple.

  Keras takes a list as the shapes of several inputs.
  """

  def convert(shape: Any) -> Any:
    if not isinstance(shape, list):
      return shape
    if any(isinstance(item, list) for item in shape):
      return [convert(item) for item in shape]
    return tuple(shape)

  return dict(build_config, input_shape=convert(build_config['input_shape']))


def serializable(layer_class: type) -> type:
  """Registers a layer class for saved models.

  Also by its name without package, which Keras 2.14 uses for layers in TimeDistributed and other
  wrappers.
  """
  tf.keras.utils.get_custom_objects()[layer_class.__name__] = layer_class
  return tf.keras.saving.register_keras_serializable(PACKAGE)(layer_class)


# A Keras layer to type checkers: what the layer it is mixed into has can be used.
_MIXED_IN: Any = object


class Factored(_MIXED_IN):
  """A mixin shared by all layers with factorised kernels; it comes before the Keras class.

  Mixins are not Keras layers themselves: in TFF's graphs Keras replaces the base class of each
  layer when it is created, and replacing a shared base class would break the other layers.

  recompute: whether the backward pass composes kernels again, rather than keeping them in memory.
  """

  # The form of convolutions; all other kernels are matrices.
  form = 'matrix'
  # Whether biases are trained as the factors are.
  trains_bias = True
  # The number of the plain layer's arguments allowed by position; the next ones are not supported.
  num_positional = 0

  def __init__(self, *args: Any, recompute: bool = False, **kwargs: Any):
    checks.check_type('recompute', recompute, bool)
    if len(args) > self.num_positional:
      raise TypeError(
        f'{type(self).__name__} takes at most {self.num_positional} positional arguments, found '
        f'{len(args)}; give the others by name.'
      )
    for name in _WITHOUT_MEANING:
      if kwargs.pop(name, None) is not None:
        raise ValueError(f'`{name}` is not supported with a factorised kernel; found one.')
    super().__init__(*args, **kwargs)
    self.recompute = recompute
    self._kernels: tuple[tuple[str, kernel_lib.FactoredKernel], ...] = ()

  @property
  def settings(self) -> dict[str, Any]:
    """The constructor's arguments that the plain Keras layer does not have."""
    return dict(recompute=self.recompute)

  def factorization(self, kernel_shape: tuple[int, ...]) -> factorization_lib.Factorization:
    """The factorization of a kernel of this shape, which is its view (`ranks.kernel_view`)."""
    raise NotImplementedError

  @property
  def factored_kernels(self) -> dict[str, kernel_lib.FactoredKernel]:
    """The kernels, by the name of the attribute that composes them; empty before `build`."""
    return dict(self._kernels)

  def add_kernel(
    self, name: str, shape: tuple[int, ...], variance: float, regularizer: Any = None
  ) -> None:
    """Adds the factors of the kernel `name`, as weights called `name` + `_` + the factor's name.

    variance: the variance of the kernel's entries, for the balanced initialisation.
    """
    view = ranks.kernel_view(name, shape)
    factorization = self.factorization(view)
    stddevs = factorization.stddevs(view, variance)
    factors = {}
    for factor, factor_shape in factorization.shapes(view).items():
      trainable = factor not in factorization.frozen
      factors[factor] = self.add_weight(
        name=f'{name}_{factor}',
        shape=factor_shape,
        initializer=tf.keras.initializers.RandomNormal(stddev=stddevs[factor]),
        regularizer=regularizer if trainable else None,
        trainable=trainable,
        # Factors are composed in full precision, then the kernel is cast, as a plain kernel is.
        experimental_autocast=False,
      )
    kernel = kernel_lib.FactoredKernel(factorization, shape, view, factors, self.recompute)
    # A tuple, since Keras would wrap and save a dictionary.
    self._kernels = (*self._kernels, (name, kernel))

  def add_bias(self, shape: Sequence[int], initializer: Any = None) -> None:
    """Adds `bias`, or sets it to None without `use_bias`, as the plain layer does."""
    self.bias = None
    if self.use_bias:
      self.bias = self.add_weight(
        name='bias',
        shape=shape,
        initializer=initializer or self.bias_initializer,
        regularizer=self.bias_regularizer if self.trains_bias else None,
        constraint=self.bias_constraint,
        trainable=self.trains_bias,
      )

  def compose(self, name: str) -> tf.Tensor:
    """The kernel `name`, in the layer's compute dtype."""
    return self.factored_kernels[name].compose(self.compute_dtype)

  def get_config(self) -> dict[str, Any]:
    config = super().get_config()
    for name in _WITHOUT_MEANING:
      config.pop(name, None)
    return config | self.settings


class Sized(Factored):
  """A mixin for factorised layers with a given rank, or a size that decides the rank.

  Exactly one of these must be given:
    rank: the rank of all kernels, at least 1;
    gamma: in [0, 1], FedPara's hyper-parameter: kernels get as many parameters as FedPara's
      (`ranks.rank_for_gamma`);
    budget: in (0, 1], the largest size of the factors as a fraction of each kernel's size. The rank
      is always at least 1.
  initialization: see `factorization.Factorization`.
  """

  branches = 0

  def __init__(
    self,
    *args: Any,
    rank: int | None = None,
    gamma: float | None = None,
    budget: float | None = None,
    initialization: str = 'balanced',
    **kwargs: Any,
  ):
    ranks.check_size(rank, gamma, budget)
    checks.check_one_of('initialization', initialization, factorization_lib.INITIALIZATIONS)
    super().__init__(*args, **kwargs)
    self._size: dict[str, Any] = dict(rank=rank, gamma=gamma, budget=budget)
    self.initialization = initialization

  @property
  def settings(self) -> dict[str, Any]:
    return super().settings | self._size | dict(initialization=self.initialization)

  def rank_of(self, kernel_shape: tuple[int, ...]) -> int:
    """The rank of a kernel of this shape."""
    return ranks.choose_rank(kernel_shape, self.form, self.branches, **self._size)


def personal_mask(model: tf.keras.Model) -> list[bool]:
  """For each of the model's trainable variables, in order, whether it is personal (pFedPara)."""
  personal = {
    id(factor)
    for layer in model.submodules
    if isinstance(layer, Factored)
    for kernel in layer.factored_kernels.values()
    for name, factor in kernel.factors.items()
    if factorization_lib.is_personal(name)
  }
  return [id(v) in personal for v in model.trainable_variables]


class Linear(Factored):
  """A mixin for factorised layers that are linear in their input before the activation.

  Runs the code of the plain layer, so it accepts the same inputs.
  """

  # The plain Keras layer.
  plain: type[tf.keras.layers.Layer]

  def call(self, inputs: Any) -> Any:
    arguments = dict(inputs=inputs)
    if self.bias is not None:
      arguments |= dict(bias=tf.convert_to_tensor(self.bias))
    outputs = kernel_lib.apply(
      self._without_activation, arguments, self.factored_kernels, self.compute_dtype
    )
    if self.activation is None:
      return outputs
    return tf.ragged.map_flat_values(self.activation, outputs)

  def _without_activation(self, arguments: dict[str, Any], kernels: dict[str, tf.Tensor]) -> Any:
    bias = arguments.get('bias')
    view = _View(self, activation=None, bias=bias, **kernels)
    return self.plain.call(view, arguments['inputs'])


class _View:
  """A layer with some attributes replaced."""

  def __init__(self, layer: tf.keras.layers.Layer, **attributes: Any):
    self._layer = layer
    self.__dict__.update(attributes)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._layer, name)


class FactoredDense(Linear, tf.keras.layers.Dense):
  """keras.layers.Dense: floating [..., inputs] -> [..., units], also ragged; or sparse [n, inputs].

  The last axis of a ragged input must have a fixed size.
  """

  plain = tf.keras.layers.Dense
  num_positional = 3

  def build(self, input_shape: Any) -> None:
    inputs = tf.TensorShape(input_shape)[-1]
    if inputs is None:
      raise ValueError(f'The last size of the input must be known, found shape {input_shape}.')
    self.input_spec = tf.keras.layers.InputSpec(min_ndim=2, axes={-1: inputs})
    shape = (inputs, self.units)
    self.add_kernel('kernel', shape, he_variance(shape), self.kernel_regularizer)
    self.add_bias([self.units])
    self.built = True

  @property
  def kernel(self) -> tf.Tensor:
    return self.compose('kernel')


class FactoredEmbedding(Factored, tf.keras.layers.Embedding):
  """keras.layers.Embedding: integers [...] -> [..., output_dim], also ragged or sparse.

  Composes only the rows that are used.
  """

  num_positional = 2

  def build(self, input_shape: Any = None) -> None:
    shape = (self.input_dim, self.output_dim)
    self.add_kernel('embeddings', shape, EMBEDDING_VARIANCE, self.embeddings_regularizer)
    self.built = True

  @property
  def embeddings(self) -> tf.Tensor:
    return self.compose('embeddings')

  def call(self, inputs: Any) -> Any:
    if inputs.dtype not in (tf.int32, tf.int64):
      inputs = tf.cast(inputs, tf.int32)
    if isinstance(inputs, tf.SparseTensor):
      return self._of_sparse(inputs)
    outputs = tf.ragged.map_flat_values(self._rows, inputs)
    return tf.sparse.from_dense(outputs) if self.sparse else outputs

  def _rows(self, indices: tf.Tensor) -> tf.Tensor:
    return self.factored_kernels['embeddings'].rows(indices, tf.as_dtype(self.compute_dtype))

  def _of_sparse(self, inputs: tf.SparseTensor) -> Any:
    """The plain layer's lookup in a table of the used rows, and row 0 for absent entries."""
    indices = tf.maximum(inputs.values, 0)  # Negative indices mean absent.
    table = self._rows(tf.concat([tf.zeros([1], indices.dtype), indices], 0))
    places = tf.range(1, tf.size(indices, indices.dtype) + 1)
    inputs = inputs.with_values(tf.where(inputs.values < 0, inputs.values, places))
    return tf.keras.layers.Embedding.call(_View(self, embeddings=table), inputs)
