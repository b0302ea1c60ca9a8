"""Walks models layer by layer, and copies them with some layers replaced.

A layer is a container if it is a nested model, or a wrapper without weights of its own:
keras.layers.TimeDistributed, Bidirectional and the like. Every other layer is a leaf. A path has
the names of the containers around a layer, from the outermost on, and the layer's own name.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
from typing import Any, TypeAlias

import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank.layers import adapters

Layer: TypeAlias = tf.keras.layers.Layer
Model: TypeAlias = tf.keras.Model
Path = tuple[str, ...]

# Models whose `call` follows the connections of layers: Sequential and functional models.
_GRAPH_MODELS = (tf.keras.Sequential, tf.keras.Sequential.__base__)


def check_model(model: Model) -> None:
  """Raises TypeError or ValueError unless `model` is built, and is Sequential or functional."""
  checks.check_type('model', model, Model)
  _refuse_subclassed(model)
  if not model.built:
    raise ValueError('`model` must be built, so that the shapes of its kernels are known.')


def _refuse_subclassed(layer: Layer) -> None:
  if isinstance(layer, tf.keras.Model):
    owner_of_call = next(parent for parent in type(layer).__mro__ if 'call' in vars(parent))
    if owner_of_call not in _GRAPH_MODELS:
      raise ValueError(
        f'`model` must be a Sequential or functional model, found {type(layer).__name__}, a '
        'subclassed model: a keras.Model with its own `call`, so the connections of its layers '
        'are not known. Create it with tf.keras.Model(inputs, outputs), or use the layers of '
        'tff_lowrank.layers in it.'
      )
  for inner in inner_layers(layer):
    _refuse_subclassed(inner)


def inner_layers(layer: Layer) -> list[Layer]:
  """The layers of a container, in order; empty for a leaf."""
  if isinstance(layer, tf.keras.Model):
    return layer.layers
  if isinstance(layer, adapters.Frozen) or not isinstance(layer, tf.keras.layers.Wrapper):
    return []
  if isinstance(layer, tf.keras.layers.Bidirectional):
    inner = [layer.forward_layer, layer.backward_layer]
  else:
    inner = [layer.layer]
  has_own_weights = len(layer.weights) > sum(len(part.weights) for part in inner)
  return [] if has_own_weights else inner


def leaves(layer: Layer, path: Path = ()) -> Iterator[tuple[Layer, Path]]:
  """The leaves in a container at `path`, in order, with their paths."""
  for inner in inner_layers(layer):
    if inner_layers(inner):
      yield from leaves(inner, (*path, inner.name))
    else:
      yield inner, (*path, inner.name)


def pairs(model: Layer, twin: Layer) -> Iterator[tuple[Layer, Layer]]:
  """Pairs of layers of a model and its copy: leaves, or a container if the other is a leaf."""
  inner, twins = inner_layers(model), inner_layers(twin)
  if not inner or not twins:
    yield model, twin
    return
  for one, other in zip(inner, twins, strict=True):
    yield from pairs(one, other)


def names(model: Model) -> set[str]:
  """The names of all layers in a model, both containers and leaves."""
  return {name for _, path in leaves(model) for name in path}


def _classes_inside(layer: Layer) -> dict[str, type]:
  """The classes of all layers in a container, by their names."""
  found: dict[str, type] = {}
  for inner in inner_layers(layer):
    found |= {type(inner).__name__: type(inner)} | _classes_inside(inner)
  return found


def copy(layer: Layer) -> Layer:
  """A layer with the same arguments, without weights yet.

  Raises ValueError if Keras cannot create it from its `get_config`.
  """
  try:
    # Keras' wrappers search for the class of the wrapped layer by name, even if it is registered.
    with tf.keras.utils.custom_object_scope(_classes_inside(layer)):
      return type(layer).from_config(config_of(layer))
  except Exception as e:  # A user's class may raise any error.
    raise ValueError(
      f'`model` must have layers that can be copied by `from_config(get_config())`, found '
      f'{layer.name!r} of class {type(layer).__name__}, where this raises {type(e).__name__}.'
    ) from e


def config_of(layer: Layer) -> dict:
  """The layer's arguments."""
  config = layer.get_config()
  if isinstance(layer, tf.keras.layers.Embedding):
    config['sparse'] = layer.sparse  # Keras forgets this.
  return config


def clone(
  model: Model,
  is_exchanged: Callable[[Layer, Path], bool],
  make: Callable[[Layer, Path], Layer],
  wrapper_options: Mapping[str, Any] | None = None,
) -> Model:
  """A copy of `model`, built, with new weights.

  Args:
    model: a model that passes `check_model`.
    is_exchanged: `(leaf, path) -> bool`, whether to replace the leaf by `make(leaf, path)`. Then
      the wrappers around it are created again, around the new layer.
    make: returns the copy of a leaf, or of a wrapper without such a leaf. For a Bidirectional,
      both directions are replaced or none.
    wrapper_options: arguments of wrappers that are created again, in place of their own.

  Raises:
    ValueError: for a layer in two containers, since Keras' copies would not be shared.
  """
  met = set()

  def build(layer: Layer, path: Path) -> Layer:
    if id(layer) in met:  # Once for each container of the layer.
      raise ValueError(
        'A layer in two nested models, or in a wrapper and elsewhere, cannot be converted, found '
        f'{layer.name!r}.'
      )
    met.add(id(layer))
    if isinstance(layer, tf.keras.Model):
      return build_model(layer, path)
    enough = all if isinstance(layer, tf.keras.layers.Bidirectional) else any
    inside = list(leaves(layer, path))
    if inside and enough(is_exchanged(*leaf) for leaf in inside):
      twins = [build(inner, (*path, inner.name)) for inner in inner_layers(layer)]
      return _rewrapped(layer, twins, wrapper_options or {})
    met.update(id(leaf) for leaf, _ in inside)
    return make(layer, path)

  def build_model(inner: Model, path: Path) -> Model:
    return tf.keras.models.clone_model(
      inner, clone_function=lambda layer: build(layer, (*path, layer.name))
    )

  twin = build_model(model, ())
  if not twin.built:
    twin.build(model.input_shape)
  return twin


def _rewrapped(wrapper: Layer, twins: list[Layer], options: Mapping[str, Any]) -> Layer:
  config = wrapper.get_config() | options
  # A Bidirectional without a separate backward layer has one configuration for both directions.
  for key, twin in zip(('layer', 'backward_layer'), twins, strict=False):
    if key in config:
      # If layers were built here, the names of their weights would lack the layer's name.
      serialized = _without_shapes(tf.keras.layers.serialize(twin))
      serialized['config']['name'] = config[key]['config']['name']
      config[key] = serialized
  return type(wrapper).from_config(config)


def _without_shapes(config: Any) -> Any:
  """A serialised layer without shapes, so that neither it nor layers in it are built."""
  if isinstance(config, list):
    return [_without_shapes(part) for part in config]
  if not isinstance(config, dict):
    return config
  return {key: _without_shapes(part) for key, part in config.items() if key != 'build_config'}


@contextlib.contextmanager
def _all_frozen(layer: Layer) -> Iterator[None]:
  """Inside, nothing in the layer is trainable; afterwards it is as before."""
  modules = layer.submodules
  inner = [layer, *(m for m in modules if isinstance(m, tf.keras.layers.Layer))]
  before = [each.trainable for each in inner]
  layer.trainable = False  # Including nested layers.
  try:
    yield
  finally:
    for each, value in zip(
      inner, before, strict=True
    ):  # Outer layers first: they set `trainable` of their inner layers.
      each.trainable = value


def copy_weights(old: Layer, new: Layer) -> None:
  """Copies the weights of `old` to `new`, a layer of the same kind but maybe frozen differently.

  Keras lists trainable weights before the others, so the order of the lists may differ.
  """
  with _all_frozen(old), _all_frozen(new):
    new.set_weights(old.get_weights())
