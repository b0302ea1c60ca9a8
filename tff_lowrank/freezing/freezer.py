"""Adaptive Parameter Freezing: its state, and the update of the state in a round.

At check c, for each active parameter j (those with U_j <= c):
  D_j: its change since the last check -> E_j, A_j -> P_j            see `stability`
  P_j < T:  L_j grows,  else: L_j shrinks                            see `control`
  U_j = c + 1 + L_j, plus a random extra period                      see `aggressive`
  then c grows by one, and T is halved if more than 80 % of all parameters are frozen
A frozen parameter (U_j > c) keeps its value and its E, A, L until it is active again.
"""

import collections
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tff_lowrank import structures
from tff_lowrank.freezing import aggressive
from tff_lowrank.freezing import control
from tff_lowrank.freezing import settings as settings_lib
from tff_lowrank.freezing import stability

QUANTILES = (('q05', 0.05), ('q50', 0.5), ('q95', 0.95))
_QUANTILE_SAMPLE = 1024


class State(NamedTuple):
  """The freezing state of a model. Lists have an entry for each tensor.

  round: int32 [], rounds so far; the number of checks is `round // check_every`.
  threshold: T, float32 [].
  change: float, shaped as the tensors: their change since the last check. `[]` if there is a
    check in each round.
  statistics: `stability.Statistics`.
  period: L, int32, shaped as the tensors, or [] if a tensor is frozen as a whole.
  wake: U, int32, as `period`: the check from which on the parameter is active.
  """

  round: tf.Tensor
  threshold: tf.Tensor
  change: list[tf.Tensor]
  statistics: list[stability.Statistics]
  period: list[tf.Tensor]
  wake: list[tf.Tensor]


def _by_tensor(settings: settings_lib.Settings) -> bool:
  return settings.granularity == 'tensor'


def initial_state(settings: settings_lib.Settings, value_spec: Any) -> State:
  """The state before the first round, of a model of `value_spec` (`tf.TensorSpec`s).

  All parameters are active.

  Raises:
    TypeError: If a tensor does not have a float dtype.
  """
  specs = tf.nest.flatten(value_spec)
  for spec in specs:
    if not spec.dtype.is_floating:
      raise TypeError(f'Only floats can be frozen, found a tensor of {spec.dtype.name}.')
  whole = _by_tensor(settings)
  counters = [tf.zeros([] if whole else spec.shape, tf.int32) for spec in specs]
  statistics = [stability.initial_statistics(spec, settings.window, whole) for spec in specs]
  return State(
    round=tf.constant(0),
    threshold=tf.constant(settings.stability_threshold, tf.float32),
    change=[tf.zeros(s.shape, s.dtype) for s in specs] if settings.check_every > 1 else [],
    statistics=statistics,
    period=counters,
    wake=counters,
  )


def frozen_mask(settings: settings_lib.Settings, state: State) -> list[tf.Tensor]:
  """bool, shaped as `state.wake`: what is frozen in the next round.

  The mask changes only after a check.
  """
  check = state.round // settings.check_every
  # With == instead, a parameter whose check was missed would stay frozen for ever.
  return [wake > check for wake in state.wake]


def hold(frozen: list[tf.Tensor], kept: Any, value: Any) -> Any:
  """`kept` where `frozen`, else `value`; both have the same structure, and `frozen` is its mask."""
  held = [
    structures.where(mask, a, b)
    for mask, a, b in zip(frozen, tf.nest.flatten(kept), tf.nest.flatten(value), strict=True)
  ]
  return tf.nest.pack_sequence_as(value, held)


def hold_slots(frozen: list[tf.Tensor], weights: Any, kept: Any, slots: Any) -> Any:
  """An optimizer's state after a step, with its slots unchanged where `frozen`.

  A slot is a part of the state with the structure and shapes of the weights: a momentum, a second
  moment. Other parts, such as a counter of steps, are updated.

  Args:
    frozen: The mask.
    weights: The trainable weights, of any structure.
    kept: The state before the step, nested mappings of slots and numbers.
    slots: The state after it.
  """

  def matches(part: Any) -> bool:
    try:
      tf.nest.assert_same_structure(part, weights, check_types=False)
    except (TypeError, ValueError):
      return False
    pairs = zip(tf.nest.flatten(part), tf.nest.flatten(weights), strict=True)
    return all(tf.convert_to_tensor(a).shape == b.shape for a, b in pairs)

  if matches(slots):
    return hold(frozen, kept, slots)
  if isinstance(slots, Mapping):
    pairs = [(name, hold_slots(frozen, weights, kept[name], slots[name])) for name in slots]
    return type(slots)(pairs)  # type: ignore[call-arg]  # TFF has ordered dictionaries.
  return slots


def next_round(settings: settings_lib.Settings, state: State, change: Any) -> State:
  """The state after a round.

  Args:
    settings: The settings.
    state: The state before it.
    change: The change of the model's values, in the structure of the model; 0 where frozen.
  """
  change = tf.nest.flatten(change)
  if settings.check_every == 1:
    return _check(settings, state, change)
  change = [a + b for a, b in zip(state.change, change, strict=True)]
  zeros = [tf.zeros_like(c) for c in change]
  is_due = tf.equal((state.round + 1) % settings.check_every, 0)
  return tf.cond(
    is_due,
    lambda: _check(settings, state, change)._replace(change=zeros),
    lambda: state._replace(round=state.round + 1, change=change),
  )


def _check(settings: settings_lib.Settings, state: State, change: list[tf.Tensor]) -> State:
  """The stability check, with `change` since the last one."""
  whole = _by_tensor(settings)
  check = state.round // settings.check_every
  statistics, periods, wakes = [], [], []
  for index, (old, d) in enumerate(zip(state.statistics, change, strict=True)):
    period, wake = state.period[index], state.wake[index]
    active = wake <= check
    new = stability.update(
      old, d, active, ema_decay=settings.ema_decay, window=settings.window, whole=whole
    )
    stable = stability.is_stable(
      new, state.threshold, whole=whole, zero_update=settings.zero_update
    )
    period = structures.where(active, control.next_period(settings.control, period, stable), period)
    extra = aggressive.extra_period(settings.aggressive, settings.seed, check, index, period.shape)
    statistics.append(new)
    periods.append(period)
    wakes.append(structures.where(active, check + 1 + period + extra, wake))
  frozen = structures.count([wake > check + 1 for wake in wakes], change)
  threshold = stability.tighten(
    state.threshold, frozen, structures.num_elements(change), settings.threshold_floor
  )
  return State(state.round + 1, threshold, state.change, statistics, periods, wakes)


def measure(
  settings: settings_lib.Settings, state: State, value_spec: Any
) -> collections.OrderedDict[str, Any]:
  """Measurements of the state after a round.

  frozen_fraction: the fraction of all scalars that is frozen in the next round.
  stability_threshold: T.
  freezing_period, effective_perturbation: means over all scalars of L, in checks, and P (for
    frozen scalars, the last one).
  frozen_fraction_by_tensor: [tensors].
  freezing_period_by_tensor, effective_perturbation_by_tensor: `mean` and the quantiles `q05`,
    `q50`, `q95`, each [tensors]; quantiles of a tensor with more than 1,024 scalars are computed
    from 1,024 evenly spaced ones.

  Args:
    settings: The settings.
    state: The state.
    value_spec: `tf.TensorSpec`s of the model.
  """
  specs = tf.nest.flatten(value_spec)
  perturbations = [
    stability.effective_perturbation(
      s, whole=_by_tensor(settings), zero_update=settings.zero_update
    )
    for s in state.statistics
  ]
  sizes = tf.constant([s.shape.num_elements() for s in specs], tf.float32)
  masks = frozen_mask(settings, state)
  counts = tf.stack([structures.count([m], s) for m, s in zip(masks, specs, strict=True)])
  fractions = tf.math.divide_no_nan(tf.cast(counts, tf.float32), sizes)
  periods = _summary([tf.cast(p, tf.float32) for p in state.period])
  perturbation = _summary([tf.cast(p, tf.float32) for p in perturbations])

  def mean(by_tensor: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(tf.reduce_sum(by_tensor * sizes), tf.reduce_sum(sizes))

  return collections.OrderedDict(
    frozen_fraction=mean(fractions),
    stability_threshold=state.threshold,
    freezing_period=mean(periods['mean']),
    effective_perturbation=mean(perturbation['mean']),
    frozen_fraction_by_tensor=fractions,
    freezing_period_by_tensor=periods,
    effective_perturbation_by_tensor=perturbation,
  )


def _summary(values: list[tf.Tensor]) -> collections.OrderedDict[str, tf.Tensor]:
  """The mean and quantiles of each tensor, float32 [tensors]; 0 for an empty tensor."""
  summary = collections.OrderedDict(
    mean=tf.stack([tf.math.divide_no_nan(tf.reduce_sum(v), float(v.shape.num_elements()))
                   for v in values])
  )  # fmt: skip
  ordered = []
  for v in values:
    size = v.shape.num_elements()
    step = -(-size // _QUANTILE_SAMPLE) or 1
    ordered.append(tf.sort(tf.reshape(v, [size])[::step]) if size else tf.zeros([1]))
  for name, q in QUANTILES:
    picked = [v[round(q * (v.shape.num_elements() - 1))] for v in ordered]
    summary[name] = tf.stack(picked)
  return summary
