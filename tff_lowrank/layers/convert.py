"""Converts Keras models to factorised models, to adapters, and back to ordinary layers.

A model must be built, and Sequential or functional. Nested models, and layers in wrappers such as
TimeDistributed and Bidirectional, are converted too. These classes (not their subclasses) have a
factorised form, if no kernel has a constraint: Dense, Conv1D to Conv3D with any number of groups,
DepthwiseConv1D and 2D, SeparableConv1D and 2D, Embedding, LSTM, GRU. Other layers, wrappers with
their own weights, and layers named in `skip` are copied unchanged. A layer may be used several
times in one model, but not also in a nested model or a wrapper, since Keras' copies would not be
shared.
"""

from collections.abc import Callable, Collection, Mapping
import math
from typing import Any, TypeAlias

import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank.layers import adapters
from tff_lowrank.layers import clone
from tff_lowrank.layers import conversion
from tff_lowrank.layers import convolution
from tff_lowrank.layers import fedpara
from tff_lowrank.layers import fit as fit_lib
from tff_lowrank.layers import low_rank
from tff_lowrank.layers import ranks

_PLAIN = (
  'Dense',
  'Conv1D',
  'Conv2D',
  'Conv3D',
  'DepthwiseConv1D',
  'DepthwiseConv2D',
  'SeparableConv1D',
  'SeparableConv2D',
  'Embedding',
  'LSTM',
  'GRU',
)


Layer: TypeAlias = tf.keras.layers.Layer
Model: TypeAlias = tf.keras.Model


def _classes(module: Any, prefix: str) -> dict[type[Layer], type[Layer]]:
  return {getattr(tf.keras.layers, name): getattr(module, prefix + name) for name in _PLAIN}


_FEDPARA = _classes(fedpara, 'FedPara')
_LOW_RANK = _classes(low_rank, 'LowRank')
_ADAPTERS = _classes(adapters, 'Adapter')
_PLAIN_OF = {
  twin: plain for classes in (_FEDPARA, _LOW_RANK, _ADAPTERS) for plain, twin in classes.items()
}

Conversion = conversion.Conversion


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
  """Converts to FedPara's (or pFedPara's) layers; see `fedpara` for the paper and arguments.

  A layer is not converted if its kernels, together, would not get smaller at FedPara's smallest
  unrestricted rank, or if no rank is within the budget.

  Args:
    model: a built model of plain Keras layers; it is not changed.
    gamma: FedPara's rank hyper-parameter in [0, 1]; or
    budget: the largest size of the factors as a fraction, in (0, 1], of each kernel's size.
    skip: names of layers, or nested models, that are not converted.
    personal: whether kernels are W1 * (W2 + 1).
    tanh: whether to apply tanh to W1 and W2.
    recompute: whether the backward pass composes kernels again, to save memory.
    from_trained_weights: whether to copy the weights of other layers, and biases, and to fit
      factors to the kernels; otherwise all weights are initialised again.
    fit_iterations: see `fit.fit`.

  Raises:
    TypeError or ValueError: if the model or an argument is not as above, or no layer can be
      converted.

  >>> import tensorflow as tf
  >>> from tff_lowrank import layers
  >>> dense = tf.keras.layers.Dense
  >>> model = tf.keras.Sequential([dense(256, 'relu', input_shape=(784,)), dense(10, name='last')])
  >>> conversion = layers.to_fedpara(model, gamma=0.1, skip=['last'])
  >>> model.count_params(), conversion.model.count_params()
  (203530, 52746)
  >>> layers.compose(conversion.model).count_params()  # With plain layers again.
  203530
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
  """Converts to plain low-rank layers: the same layers as `to_fedpara`, with equal size."""
  ranks.check_size(None, gamma, budget)
  options = dict(gamma=gamma, budget=budget, recompute=recompute)
  return _factorize(model, _LOW_RANK, options, skip, from_trained_weights, fit_iterations)


def to_adapters(
  model: Model,
  rank: int,
  *,
  scale: float = 1.0,
  product: str = 'hadamard',
  one_factor: bool = False,
  skip: Collection[str] = (),
  trainable: Collection[str] = (),
  recompute: bool = False,
) -> Conversion:
  """Freezes the weights and adds low-rank adapters of `rank`; the outputs do not change at first.

  Only the adapters, even if larger than the kernel, and layers named in `trainable` are trained.
  Layers without a kernel, or named in `skip`, are frozen without an adapter.

  Args:
    model: as for `to_fedpara`.
    rank: the rank of all adapters, at least 1.
    scale: the factor of the adapters' products; see `adapters`.
    product: `'hadamard'`, LoHa, or `'plain'`, LoRA.
    one_factor: whether of each adapter the factor that starts at 0 trains alone (FFA-LoRA).
    skip: names of layers, or nested models, that are frozen without adapters.
    trainable: names of layers, or nested models, that are fully trained, such as a new head.
    recompute: whether the backward pass composes kernels again, to save memory.

  Raises:
    TypeError or ValueError: as `to_fedpara`, or for a name in both `skip` and `trainable`.
  """
  checks.check_at_least('rank', rank, 1)
  clone.check_model(model)
  _check_names(model, skip=skip, trainable=trainable)
  if both := sorted(set(skip) & set(trainable)):
    raise ValueError(f'`skip` and `trainable` must not name the same layers, found {both} in both.')
  options = dict(
    rank=rank, scale=scale, product=product, one_factor=one_factor, recompute=recompute
  )

  def reason(layer: Layer, path: clone.Path) -> str | None:
    if set(trainable).intersection(path):
      return 'it is named in `trainable`, and is fully trained'
    return _reason(layer, path, skip)

  def make(layer: Layer, path: clone.Path) -> Layer:
    if not reason(layer, path):
      return _make(_ADAPTERS[type(layer)], layer, options | dict(trainable=True))
    twin = clone.copy(layer)
    inside = {name for _, inner in clone.leaves(layer, path) for name in inner}
    if set(trainable) & inside.union(path):
      twin.trainable = True
      return twin
    return adapters.Frozen(twin, name=layer.name) if layer.weights else twin

  # Adapters are trainable even in layers and wrappers that are frozen in the model.
  twin, left = _convert(model, reason, make, wrapper_options=dict(trainable=True))
  for old, new in clone.pairs(model, twin):
    if _is_frozen(new):
      clone.copy_weights(old, new.layer)
    elif not _is_converted(old, new):
      clone.copy_weights(old, new)
    else:
      _copy_bias(old, new)
      for name, kernel in new.factored_kernels.items():
        base = kernel.factors['base']
        base.assign(tf.reshape(_plain_kernels(old)[name], base.shape))
  return Conversion(twin, _described(model, twin, errors={}), left)


def compose(model: Model) -> Model:
  """Converts back to ordinary Keras layers, whose kernels are composed once; equal outputs.

  The inverse of the conversions above, to serve the model at the plain model's cost. All layers of
  an adapted model become trainable again.
  """
  clone.check_model(model)

  def make(layer: Layer, path: clone.Path) -> Layer:
    del path
    if type(layer) in _PLAIN_OF:
      config = clone.config_of(layer)
      config = {name: value for name, value in config.items() if name not in layer.settings}
      return _PLAIN_OF[type(layer)].from_config(config)
    if not _is_frozen(layer):
      return clone.copy(layer)
    thawed = clone.copy(layer.layer)
    thawed.trainable = True  # Including all layers that it wraps.
    return thawed

  twin = clone.clone(model, lambda layer, path: True, make)
  for old, new in clone.pairs(model, twin):
    if type(old) in _PLAIN_OF:
      _copy_bias(old, new)
      for name, variable in _plain_kernels(new).items():
        variable.assign(old.factored_kernels[name].compose())
    else:
      clone.copy_weights(old, new)
  return twin


def _factorize(
  model: Model,
  classes: dict[type, type],
  options: dict[str, Any],
  skip: Collection[str],
  from_trained_weights: bool,
  fit_iterations: int,
) -> Conversion:
  clone.check_model(model)
  _check_names(model, skip=skip)

  def reason(layer: Layer, path: clone.Path) -> str | None:
    return _reason(layer, path, skip) or _size_reason(layer, options)

  def make(layer: Layer, path: clone.Path) -> Layer:
    return clone.copy(layer) if reason(layer, path) else _make(classes[type(layer)], layer, options)

  twin, left = _convert(model, reason, make)
  errors = {}
  if from_trained_weights:
    for old, new in clone.pairs(model, twin):
      if not _is_converted(old, new):
        clone.copy_weights(old, new)
        continue
      _copy_bias(old, new)
      for name, kernel in new.factored_kernels.items():
        target = _plain_kernels(old)[name].numpy().reshape(kernel.view)
        factors, errors[kernel] = fit_lib.fit(
          target, kernel.factorization, iterations=fit_iterations
        )
        for factor, value in factors.items():
          kernel.factors[factor].assign(value)
  return Conversion(twin, _described(model, twin, errors), left)


def _convert(
  model: Model,
  reason: Callable[[Layer, clone.Path], str | None],
  make: Callable[[Layer, clone.Path], Layer],
  **options: Any,
) -> tuple[Model, dict[str, str]]:
  """The copy of the model, and the reasons why leaves were not converted."""
  twin = clone.clone(model, lambda layer, path: not reason(layer, path), make, **options)
  converted = {id(old) for old, new in clone.pairs(model, twin) if _is_converted(old, new)}
  left = {}
  for layer, path in clone.leaves(model):
    if id(layer) not in converted and not isinstance(layer, tf.keras.layers.InputLayer):
      name = '/'.join(path) if layer.name in left else layer.name
      left[name] = (
        reason(layer, path) or 'the other direction of its Bidirectional is not converted'
      )
  if not converted:
    raise ValueError(f'`model` has no layer that can be converted:\n{conversion.listed(left)}')
  return twin, left


def _reason(layer: Layer, path: clone.Path, skip: Collection[str]) -> str | None:
  """The reason why a layer cannot be converted at any rank; None if there is none."""
  if set(skip).intersection(path):
    return 'it is named in `skip`'
  if not layer.weights:
    return 'it has no weights'
  if type(layer) in _PLAIN_OF:
    return 'it has factors already'
  if type(layer) not in _FEDPARA:
    return f'{type(layer).__name__} has no factorised form'
  for name, value in layer.get_config().items():
    if value and name.endswith('_constraint') and not name.startswith('bias'):
      return f'it has a `{name}`'
  return None


def _size_reason(layer: Layer, options: dict[str, Any]) -> str | None:
  """The reason why a layer would not get smaller, all its kernels together; None if it would."""
  form = _form(layer)
  # Low-rank models convert the same layers as FedPara, for a fair comparison.
  branches = ranks.FEDPARA_BRANCHES
  gamma, budget = options['gamma'], options['budget']
  size = least = chosen = 0
  for name, kernel in _plain_kernels(layer).items():
    view = ranks.kernel_view(name, kernel.shape)
    size += math.prod(view)
    if budget is not None and not ranks.rank_for_budget(view, budget, form, branches):
      return f'no factors of `{name}` have at most {budget:g} of its {math.prod(view):,} numbers'
    rank = ranks.choose_rank(view, form, branches, gamma=gamma, budget=budget)
    chosen += ranks.count(view, rank, form, branches)
    smallest = rank if gamma is None else ranks.minimal_rank(view, form)
    least += ranks.count(view, smallest, form, branches)
  # At gamma 1, factors may have the kernel's own size, as in the paper.
  if least < size and chosen <= size:
    return None
  return f'it would not get smaller: {chosen:,} numbers instead of {size:,} in its kernels'


def _form(layer: Layer) -> str:
  """The form in which the kernels of a plain layer are factorised."""
  if not issubclass(_FEDPARA[type(layer)], convolution.TuckerOrMatrix):
    return 'matrix'
  # Groups with one input each are a depthwise convolution.
  return 'matrix' if layer.groups > 1 and layer.kernel.shape[-2] == 1 else 'tucker'


def _make(twin: type[Layer], layer: Layer, options: dict[str, Any]) -> Layer:
  """A layer of class `twin` with the arguments of `layer`, and `options`."""
  dropped = ('_initializer', '_constraint')
  config = {
    name: value
    for name, value in clone.config_of(layer).items()
    if name.startswith('bias') or not name.endswith(dropped)
  }
  if issubclass(twin, convolution.TuckerOrMatrix):
    options = options | dict(form=_form(layer))
  return twin.from_config(config | options)


def _is_converted(old: Layer, new: Layer) -> bool:
  return type(new) in _PLAIN_OF and type(old) not in _PLAIN_OF


def _is_frozen(layer: Layer) -> bool:
  return isinstance(layer, adapters.Frozen)


def _check_names(model: Model, **arguments: Collection[str]) -> None:
  for argument, given in arguments.items():
    if isinstance(given, str):
      raise TypeError(f'`{argument}` must be a collection of names, found {given!r}.')
    unknown = sorted(set(given) - clone.names(model))
    if unknown:
      raise ValueError(f'`{argument}` must name layers of the model, found {unknown} not in it.')


def _plain_kernels(layer: Layer) -> dict[str, tf.Variable]:
  """The kernels of a plain layer, by their names in the factorised layers."""
  owner = getattr(layer, 'cell', layer)
  names = ('kernel', 'recurrent_kernel', 'embeddings', ranks.DEPTHWISE_KERNEL, 'pointwise_kernel')
  return {name: getattr(owner, name) for name in names if hasattr(owner, name)}


def _copy_bias(old: Layer, new: Layer) -> None:
  old, new = getattr(old, 'cell', old), getattr(new, 'cell', new)
  if getattr(old, 'bias', None) is not None:
    new.bias.assign(old.bias)


def _described(
  model: Model, twin: Model, errors: Mapping[Any, float]
) -> tuple[conversion.KernelReport, ...]:
  """errors: the errors of the fitted kernels."""
  return tuple(
    conversion.KernelReport(
      layer=layer.name,
      kernel=name,
      shape=kernel.shape,
      rank=kernel.factorization.rank,
      num_parameters=sum(v.shape.num_elements() for v in kernel.factors.values() if v.trainable),
      fit_error=errors.get(kernel),
    )
    for old, layer in clone.pairs(model, twin)
    if _is_converted(old, layer)
    for name, kernel in layer.factored_kernels.items()
  )
