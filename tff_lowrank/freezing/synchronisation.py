"""What a client of a partly frozen model is sent, and what that costs.

The server counts the model's versions: version v is the model after v rounds, and is broadcast
in the next. A client remembers the version it was sent last. It lacks the coordinates that
changed since, and, if there was a check in between, the mask.
"""

from typing import Any

import tensorflow as tf

from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.freezing import freezer
from tff_lowrank.freezing import settings as settings_lib

MASK_POLICIES = ('server', 'derived')

NEVER_SEEN = -1


def initial_changed(frozen: list[tf.Tensor]) -> list[tf.Tensor]:
  """int32, shaped as the mask: the version in which each coordinate last changed, 0 at first."""
  return [tf.zeros(mask.shape, tf.int32) for mask in frozen]


def next_changed(
  changed: list[tf.Tensor], frozen: list[tf.Tensor], version: tf.Tensor
) -> list[tf.Tensor]:
  """As `initial_changed`, after the round that made `version` with the mask `frozen`."""
  return [tf.where(mask, c, version) for mask, c in zip(frozen, changed, strict=True)]


def own_mask(
  frozen: list[tf.Tensor], changed: list[tf.Tensor], known: tf.Tensor
) -> list[tf.Tensor]:
  """bool, shaped as the mask: what is frozen and has not changed since version `known`."""
  return [mask & (c <= known) for mask, c in zip(frozen, changed, strict=True)]


def _chosen(mask: list[tf.Tensor]) -> tf.Tensor:
  return structures.count(mask, mask)


def _state_bits(settings: settings_lib.Settings, value_spec: Any) -> int:
  """What a client needs, beside the model, to run the checks itself: E, A, L, U."""
  state = freezer.initial_state(settings, value_spec)
  if settings.window is None:
    statistics = [(s.signed, s.magnitude) for s in state.statistics]
  else:
    statistics = [s.history for s in state.statistics]
  kept = tf.nest.flatten([statistics, state.period, state.wake])
  return sum(x.shape.num_elements() * x.dtype.size * 8 for x in kept)


def downlink_price(
  settings: settings_lib.Settings,
  mask_policy: str,
  value_spec: Any,
  *,
  known: tf.Tensor,
  version: tf.Tensor,
  changed: list[tf.Tensor],
  frozen: list[tf.Tensor],
) -> ledger.Price:
  """The price of bringing a client from version `known` to `version`.

  payload: the values that changed in the last round: all that a client which was sent the
    version before lacks.
  catch_up: the values that changed in rounds before, since `known`; everything for a client
    never seen. With `mask_policy='derived'` also the state of the checks that it missed.
  index_or_mask: with `mask_policy='server'` the mask, if there was a check since `known`; and
    for a client that missed one, which coordinates the values are of, unless they are all.
  A set is sent as a bitmap or as indices, whichever is shorter; so an empty mask is free.

  Args:
    settings: How parameters are frozen.
    mask_policy: `'server'`: the server sends the mask after each check. `'derived'`: clients
      keep the state of the checks (four more numbers for each of the model's) and run them
      too, so that a client that is always there needs no mask, but one that missed a check
      fetches that state. The former suits sampled clients, the latter full participation.
    value_spec: `tf.TensorSpec`s of the trainable weights.
    known: int32 [], the version that the client has; `NEVER_SEEN` for none.
    version: int32 [], the one it is sent.
    changed: int32, shaped as the mask, see `initial_changed`.
    frozen: The mask of the round to come.
  """
  lacking = [c > known for c in changed]
  recent = [m & tf.equal(c, version) for m, c in zip(lacking, changed, strict=True)]
  older = [m & (c < version) for m, c in zip(lacking, changed, strict=True)]
  payload = ledger.selected_price(recent, value_spec)['payload']
  catch_up = ledger.selected_price(older, value_spec)['payload']
  set_bits = tf.constant(0, tf.int64)
  every = settings.check_every
  if settings.stability_threshold == 0:  # There never is a mask, as everybody knows.
    pass
  elif mask_policy == 'server':
    size = structures.num_elements(frozen)
    missed_check = known < every * (version // every)
    # The mask that the client knows says what changed in the one round after it.
    unknown = missed_check & (known < version - 1) & (_chosen(lacking) < size)
    mask_bits = ledger.index_set_bits(_chosen(frozen), size)
    lacking_bits = ledger.index_set_bits(_chosen(lacking), size)
    set_bits = tf.where(missed_check, mask_bits, 0) + tf.where(unknown, lacking_bits, 0)
  else:
    # A check in this very version the client can run itself, with the values that it is sent.
    missed_check = known < every * ((version - 1) // every)
    active = [~mask for mask in frozen]
    since_check = ledger.selected_price(active, value_spec)['payload']
    state_bits = tf.where(version >= every, _state_bits(settings, value_spec), 0)
    state_bits = tf.cast(state_bits, tf.int64) + tf.where(version % every > 0, since_check, 0)
    catch_up += tf.where(missed_check, state_bits, 0)
  return ledger.price(payload=payload, index_or_mask=set_bits, catch_up=catch_up)
