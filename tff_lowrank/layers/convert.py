"""Keras models to their factorised twins, to adapters, and back to ordinary layers.

A model is Sequential or functional, built; models nested in it are converted too. What has a
factorised form is, in exactly these classes and without a constraint on a kernel: Dense, Conv2D of
one group, Embedding, LSTM, GRU. Other layers, layers within wrappers, and those named in `skip`,
are copied as they are. A layer may be used several times in one model, but not in a nested one
besides, where Keras' copies would not be shared.
"""

from collections.abc import Callable, Collection
import dataclasses
import functools
import math
from typing import Any

import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank.layers import adapters
from tff_lowrank.layers import fedpara
from tff_lowrank.layers import fit as fit_lib
from tff_lowrank.layers import low_rank
from tff_lowrank.layers import ranks

_PLAIN = ('Dense', 'Conv2D', 'Embedding', 'LSTM', 'GRU')


def _classes(module: Any, prefix: str) -> dict[type, type]:
  return {getattr(tf.keras.layers, name): getattr(module, prefix + name) for name in _PLAIN}


_FEDPARA = _classes(fedpara, 'FedPara')
_LOW_RANK = _classes(low_rank, 'LowRank')
_ADAPTERS = _classes(adapters, 'Adapter')
_PLAIN_OF = {
  twin: plain for classes in (_FEDPARA, _LOW_RANK, _ADAPTERS) for plain, twin in classes.items()
}

Layer = tf.keras.layers.Layer
Model = tf.keras.Model


@dataclasses.dataclass(frozen=True)
class KernelReport:
  """What became of one kernel.

  layer, kernel: the names of the layer and of the kernel in it.
  shape, rank: of the kernel and of its factors.
  num_parameters: of its factors, in place of the product of `shape`.
  fit_error: |K - fit| / |K| of the trained kernel, or None where it was not fitted.
  """

  layer: str
  kernel: str
  shape: tuple[int, ...]
  rank: int
  num_parameters: int
  fit_error: float | None = None


@dataclasses.dataclass(frozen=True)
class Conversion:
  """A factorised model, and what became of each kernel that was factorised, in order."""

  model: Model
  kernels: tuple[KernelReport, ...]


def to_fedpara(
  model: Model,
  *,
  gamma: float | None = None,
  budget: float | None = None,
  skip: Collection[str] = (),
  personal: bool = False,
  tanh: bool = False,
  recompute: bool = False,
  from_trained_weights: bool = False,
  fit_iterations: int = 300,
) -> Conversion:
  """The model with FedPara's (or pFedPara's) layers; see `fedpara` for the paper and arguments.

  Layers that would not get smaller (FedPara at the least unrestricted rank, or no rank within the
  budget) stay as they are.

  Args:
    model: built, of plain Keras layers; it is not changed.
    gamma: FedPara's rank hyper-parameter in [0, 1]; or
    budget: the share of each kernel's size, in (0, 1], that its factors may have.
    skip: names of layers, or nested models, that stay as they are.
    personal: whether kernels are W1 * (W2 + 1).
    tanh: whether the terms pass through tanh.
    recompute: whether kernels are composed anew in the backward pass.
    from_trained_weights: whether to copy the weights of layers that stay, and biases, and to fit
      factors to the kernels; otherwise all weights are initialised anew.
    fit_iterations: see `fit.fit`.

  Raises:
    TypeError or ValueError: for a model or an argument that is not as above.
  """
  ranks.check_size(None, gamma, budget)
  options = dict(gamma=gamma, budget=budget, personal=personal, tanh=tanh, recompute=recompute)
  return _factorize(model, _FEDPARA, options, skip, from_trained_weights, fit_iterations)


def to_low_rank(
  model: Model,
  *,
  gamma: float | None = None,
  budget: float | None = None,
  skip: Collection[str] = (),
  recompute: bool = False,
  from_trained_weights: bool = False,
  fit_iterations: int = 300,
) -> Conversion:
  """The plain low-rank counterpart of `to_fedpara`: the same layers, at equal budget."""
  ranks.check_size(None, gamma, budget)
  options = dict(gamma=gamma, budget=budget, recompute=recompute)
  return _factorize(model, _LOW_RANK, options, skip, from_trained_weights, fit_iterations)


def to_adapters(
  model: Model,
  rank: int,
  *,
  scale: float = 1.0,
  skip: Collection[str] = (),
  recompute: bool = False,
) -> Conversion:
  """The model with frozen weights and LoHa adapters of `rank`; its outputs are the model's.

  Only adapters train; layers that get none, because they have no kernel or are named in `skip`,
  are frozen with their weights.
  """
  checks.check_at_least('rank', rank, 1)
  options = dict(rank=rank, scale=scale, recompute=recompute)

  def convert(layer: Layer) -> Layer:
    if _is_convertible(layer):
      return _make(_ADAPTERS[type(layer)], layer, options)
    return keep(layer)

  def keep(layer: Layer) -> Layer:
    return adapters.Frozen(_copy(layer), name=layer.name) if layer.weights else _copy(layer)

  twin = _clone(model, convert, keep, skip)
  for old, new in _layer_pairs(model, twin):
    if _is_frozen(new):
      new.layer.set_weights(old.get_weights())
    elif type(new) in _PLAIN_OF:
      _copy_bias(old, new)
      for name, kernel in new.factored_kernels.items():
        base = kernel.factors['base']
        base.assign(tf.reshape(_plain_kernels(old)[name], base.shape))
  return Conversion(twin, _describe(twin))


def compose(model: Model) -> Model:
  """The model with ordinary Keras layers, whose kernels are composed once; equal outputs.

  The inverse of the conversions above, for serving at the plain model's cost. Factorised layers
  within wrappers stay; all layers of an adapted model can be trained again.
  """

  def convert(layer: Layer) -> Layer:
    if type(layer) in _PLAIN_OF:
      config = layer.get_config()
      config = {name: value for name, value in config.items() if name not in layer.settings}
      return _PLAIN_OF[type(layer)].from_config(config)
    if not _is_frozen(layer):
      return _copy(layer)
    thawed = _copy(layer.layer)
    thawed.trainable = True  # With all layers that it wraps.
    return thawed

  twin = _clone(model, convert)
  for old, new in _layer_pairs(model, twin):
    if type(old) in _PLAIN_OF:
      _copy_bias(old, new)
      for name, variable in _plain_kernels(new).items():
        variable.assign(old.factored_kernels[name].compose())
    else:
      new.set_weights(old.get_weights())
  return twin


def _factorize(
  model: Model,
  classes: dict[type, type],
  options: dict[str, Any],
  skip: Collection[str],
  from_trained_weights: bool,
  fit_iterations: int,
) -> Conversion:
  def convert(layer: Layer) -> Layer:
    if _is_convertible(layer) and _gets_smaller(layer, options):
      return _make(classes[type(layer)], layer, options)
    return _copy(layer)

  twin = _clone(model, convert, skip=skip)
  errors = {}
  if from_trained_weights:
    for old, new in _layer_pairs(model, twin):
      if type(new) not in _PLAIN_OF:
        new.set_weights(old.get_weights())
        continue
      _copy_bias(old, new)
      for name, kernel in new.factored_kernels.items():
        target = _plain_kernels(old)[name].numpy()
        factors, error = fit_lib.fit(target, kernel.factorization, iterations=fit_iterations)
        for factor, value in factors.items():
          kernel.factors[factor].assign(value)
        errors[new.name, name] = error
  return Conversion(twin, _describe(twin, errors))


def _make(twin: type, layer: Layer, options: dict[str, Any]) -> Layer:
  """A layer of class `twin` with the arguments of `layer` and `options`."""
  dropped = ('_initializer', '_constraint')
  config = {
    name: value
    for name, value in layer.get_config().items()
    if name.startswith('bias') or not name.endswith(dropped)
  }
  return twin.from_config(config | options)


def _copy(layer: Layer) -> Layer:
  return type(layer).from_config(layer.get_config())


def _is_frozen(layer: Layer) -> bool:
  return isinstance(layer, adapters.Frozen)


def _is_convertible(layer: Layer) -> bool:
  if type(layer) not in _FEDPARA or getattr(layer, 'groups', 1) != 1:
    return False
  return not any(
    value and name.endswith('_constraint') and not name.startswith('bias')
    for name, value in layer.get_config().items()
  )


def _gets_smaller(layer: Layer, options: dict[str, Any]) -> bool:
  """The guard for tiny layers, on all kernels of the layer together."""
  form = 'tucker' if isinstance(layer, tf.keras.layers.Conv2D) else 'matrix'
  # Low-rank models keep the same layers as FedPara's, whose counterparts they are.
  branches = ranks.FEDPARA_BRANCHES
  saved = 0
  for kernel in _plain_kernels(layer).values():
    shape = tuple(kernel.shape)
    if options['budget'] is None:
      rank = ranks.minimal_rank(shape, form)
    elif not (rank := ranks.rank_for_budget(shape, options['budget'], form, branches)):
      return False
    saved += math.prod(shape) - ranks.count(shape, rank, form, branches)
  return saved > 0


def _clone(
  model: Model,
  convert: Callable[[Layer], Layer],
  keep: Callable[[Layer], Layer] = _copy,
  skip: Collection[str] = (),
) -> Model:
  """A copy of `model`, each layer through `convert`, or `keep`, built, with fresh weights.

  skip: names of layers and nested models of which nothing is converted.
  """
  checks.check_type('model', model, Model)
  if not model.built:
    raise ValueError('`model` must be built, so that the shapes of its kernels are known.')
  if isinstance(skip, str):
    raise TypeError(f'`skip` must be a collection of names, found {skip!r}.')
  unknown = sorted(set(skip) - _names(model))
  if unknown:
    raise ValueError(f'`skip` must name layers of the model, found {unknown} not in it.')
  met = set()

  def clone(layer: Layer, is_kept: bool = False) -> Layer:
    # Once for each model that the layer is in.
    if id(layer) in met:
      raise ValueError(f'A layer in two nested models cannot be converted, found {layer.name!r}.')
    met.add(id(layer))
    is_kept = is_kept or layer.name in skip
    if isinstance(layer, Model):
      inner = functools.partial(clone, is_kept=is_kept)
      return tf.keras.models.clone_model(layer, clone_function=inner)
    return (keep if is_kept else convert)(layer)

  twin = tf.keras.models.clone_model(model, clone_function=clone)
  if not twin.built:
    twin.build(model.input_shape)
  return twin


def _names(model: Model) -> set[str]:
  """The names of a model's layers and nested models, and of their layers."""
  return {
    name
    for layer in model.layers
    for name in ({layer.name} | (_names(layer) if isinstance(layer, Model) else set()))
  }


def _flat_layers(model: Model) -> list[Layer]:
  """The layers of a model, those of nested models in place of these."""
  return [
    leaf
    for layer in model.layers
    for leaf in (_flat_layers(layer) if isinstance(layer, Model) else [layer])
  ]


def _layer_pairs(model: Model, twin: Model) -> list[tuple[Layer, Layer]]:
  return list(zip(_flat_layers(model), _flat_layers(twin), strict=True))


def _plain_kernels(layer: Layer) -> dict[str, tf.Variable]:
  """The kernels of a plain layer, by the names that the factorised layers have for them."""
  owner = getattr(layer, 'cell', layer)
  names = ('kernel', 'recurrent_kernel', 'embeddings')
  return {name: getattr(owner, name) for name in names if hasattr(owner, name)}


def _copy_bias(old: Layer, new: Layer) -> None:
  old, new = getattr(old, 'cell', old), getattr(new, 'cell', new)
  if getattr(old, 'bias', None) is not None:
    new.bias.assign(old.bias)


def _describe(
  twin: Model, errors: dict[tuple[str, str], float] | None = None
) -> tuple[KernelReport, ...]:
  return tuple(
    KernelReport(
      layer=layer.name,
      kernel=name,
      shape=kernel.shape,
      rank=kernel.factorization.rank,
      num_parameters=sum(v.shape.num_elements() for v in kernel.factors.values() if v.trainable),
      fit_error=(errors or {}).get((layer.name, name)),
    )
    for layer in _flat_layers(twin)
    if type(layer) in _PLAIN_OF
    for name, kernel in layer.factored_kernels.items()
  )
