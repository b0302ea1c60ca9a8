"""Low-rank adapters on frozen layers: only the factors are trained and sent.

LoHa: Yeh et al.: Navigating Text-To-Image Customization, ICLR 2024, arXiv 2309.14859, which uses
FedPara's product (ICLR 2022, arXiv 2108.06098) as an update of a trained kernel:
  kernel = base + scale W1 * W2        the product is 0 at the start, since x2 is
With product='plain', LoRA: Hu et al., ICLR 2022, arXiv 2106.09685:
  kernel = base + scale W1             0 at the start, since x1 is

Averaging both factors over clients is not averaging what they stand for: of LoRA, the mean of the
products y_k x_k' over clients k is not the product of the means of y_k and of x_k, and a round of
FedAvg makes a kernel that is no client's mean. With one_factor=True, FFA-LoRA (Sun, Li, Li, Ding:
Improving LoRA in Privacy-preserving Federated Learning, ICLR 2024, arXiv 2403.12313), y stays as it
was drawn, and x alone, which starts at 0, trains and travels: the kernel is linear in it, so that
the mean of the kernels is the kernel of the mean, at half the numbers. Of LoHa, x2 alone trains.

Each layer takes the arguments of the Keras layer of its name, and `rank`, `scale` (a number above
0), `product` (`'hadamard'` or `'plain'`), `one_factor`, `initialization` of the factors that do not
start at 0, and `recompute`. `base` and `bias` are not trainable, nor are the factors that
`one_factor` freezes. They are created so, rather than frozen by `layer.trainable = False`, since
tff.learning.models.functional_model_from_keras only looks at how variables were created.
"""

import inspect
from typing import Any

import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank.layers import convolution
from tff_lowrank.layers import factored
from tff_lowrank.layers import factorization as factorization_lib
from tff_lowrank.layers import recurrent


class Adapter(factored.Factored):
  """A mixin that makes a factorised layer an adapter on a frozen layer."""

  trains_bias = False

  def __init__(
    self,
    *args: Any,
    rank: int,
    scale: float = 1.0,
    product: str = 'hadamard',
    one_factor: bool = False,
    initialization: str = 'balanced',
    **kwargs: Any,
  ):
    checks.check_at_least('rank', rank, 1)
    checks.check_type('scale', scale, (int, float))
    if not 0 < scale < float('inf'):
      raise ValueError(f'`scale` must be finite and above 0, found {scale}.')
    checks.check_one_of('initialization', initialization, factorization_lib.INITIALIZATIONS)
    checks.check_one_of('product', product, factorization_lib.PRODUCTS)
    checks.check_type('one_factor', one_factor, bool)
    super().__init__(*args, **kwargs)
    self._adapter: dict[str, Any] = dict(
      rank=rank,
      scale=scale,
      product=product,
      one_factor=one_factor,
      initialization=initialization,
    )

  @property
  def settings(self) -> dict[str, Any]:
    return super().settings | self._adapter

  def factorization(self, kernel_shape: tuple[int, ...]) -> factorization_lib.Adapter:
    """The adapter's factorization, with the layer's rank."""
    del kernel_shape
    return factorization_lib.Adapter(form=self.form, **self._adapter)


@factored.serializable
class AdapterDense(Adapter, factored.FactoredDense):
  """keras.layers.Dense, frozen, with an adapter; see the module."""


@factored.serializable
class AdapterConv1D(convolution.TuckerOrMatrix, Adapter, convolution.FactoredConv1D):
  """keras.layers.Conv1D, frozen, with an adapter; see the module."""


@factored.serializable
class AdapterConv2D(convolution.TuckerOrMatrix, Adapter, convolution.FactoredConv2D):
  """keras.layers.Conv2D, frozen, with an adapter; see the module."""


@factored.serializable
class AdapterConv3D(convolution.TuckerOrMatrix, Adapter, convolution.FactoredConv3D):
  """keras.layers.Conv3D, frozen, with an adapter; see the module."""


@factored.serializable
class AdapterDepthwiseConv1D(Adapter, convolution.FactoredDepthwiseConv1D):
  """keras.layers.DepthwiseConv1D, frozen, with an adapter; see the module."""


@factored.serializable
class AdapterDepthwiseConv2D(Adapter, convolution.FactoredDepthwiseConv2D):
  """keras.layers.DepthwiseConv2D, frozen, with an adapter; see the module."""


@factored.serializable
class AdapterSeparableConv1D(Adapter, convolution.FactoredSeparableConv1D):
  """keras.layers.SeparableConv1D, frozen, with an adapter on each kernel; see the module."""


@factored.serializable
class AdapterSeparableConv2D(Adapter, convolution.FactoredSeparableConv2D):
  """keras.layers.SeparableConv2D, frozen, with an adapter on each kernel; see the module."""


@factored.serializable
class AdapterEmbedding(Adapter, factored.FactoredEmbedding):
  """keras.layers.Embedding, frozen, with an adapter; see the module."""


@factored.serializable
class AdapterLSTMCell(Adapter, recurrent.FactoredLSTMCell):
  """keras.layers.LSTMCell, frozen, with an adapter on each kernel; see the module."""


@factored.serializable
class AdapterGRUCell(Adapter, recurrent.FactoredGRUCell):
  """keras.layers.GRUCell, frozen, with an adapter on each kernel; see the module."""


@factored.serializable
class AdapterLSTM(recurrent.FactoredRNN):
  """keras.layers.LSTM, frozen, with an adapter on each kernel; see the module."""

  cell_class = AdapterLSTMCell


@factored.serializable
class AdapterGRU(recurrent.FactoredRNN):
  """keras.layers.GRU, frozen, with an adapter on each kernel; see the module."""

  cell_class = AdapterGRUCell


@factored.serializable
class Frozen(tf.keras.layers.Wrapper):
  """Wraps a layer; its weights are created as not trainable."""

  def __init__(self, layer: tf.keras.layers.Layer, **kwargs: Any):
    # Keras' SavedModel passes the wrapper's saved data to all layers in it.
    super().__init__(layer, **kwargs | dict(trainable=False))
    layer.trainable = False
    self.supports_masking = layer.supports_masking

  def build(self, input_shape: Any = None) -> None:
    with _creating_not_trainable():
      super().build(input_shape)

  def build_from_config(self, config: dict[str, Any]) -> None:
    super().build_from_config(factored.with_tuples(config))

  def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    accepted = inspect.signature(self.layer.call).parameters
    for name in (
      'training',
      'mask',
    ):  # Keras passes them to every layer that takes arbitrary arguments.
      if name not in accepted:
        kwargs.pop(name, None)
    with _creating_not_trainable():  # Layers with several inputs are built when they are called.
      return self.layer(inputs, *args, **kwargs)

  def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
    return self.layer.compute_mask(inputs, mask)

  def compute_output_shape(self, input_shape: Any) -> Any:
    return self.layer.compute_output_shape(input_shape)

  @classmethod
  def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> 'Frozen':
    # Keras' own method for wrappers does not find registered layers, and HDF5 files have only the
    # class name. The layer is built by `build`.
    inner = config['layer']
    name = inner.get('registered_name') or inner['class_name']
    inner = dict(inner, class_name=name, build_config=None)
    layer = tf.keras.layers.deserialize(inner, custom_objects)
    return cls(layer, **{name: value for name, value in config.items() if name != 'layer'})


def _creating_not_trainable() -> Any:
  """A context in which variables are created as not trainable."""

  def create(next_creator: Any, **kwargs: Any) -> Any:
    return next_creator(**dict(kwargs, trainable=False))

  return tf.variable_creator_scope(create)
