"""The downlink of a client when parts of the model are frozen, and its cost in bits.

The server counts the versions of the model: version v is the model after v rounds, and is broadcast
in the next round. The client state is the last version that the client received. The client lacks
the coordinates that changed since then and, if there was a check in between, the mask.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.freezing import freezer
from tff_lowrank.freezing import settings as settings_lib

MASK_POLICIES = ('server', 'derived')

NEVER_SEEN = -1

_VERSIONS_AT_A_TIME = 1024


def initial_changed(frozen: list[tf.Tensor]) -> list[tf.Tensor]:
  """int32, shaped as the mask: the version in which each coordinate last changed, 0 at first."""
  return [tf.zeros(mask.shape, tf.int32) for mask in frozen]


def next_changed(
  changed: list[tf.Tensor], frozen: list[tf.Tensor], version: tf.Tensor
) -> list[tf.Tensor]:
  """As `initial_changed`, after the round that produced `version` with the mask `frozen`."""
  return [tf.where(mask, c, version) for mask, c in zip(frozen, changed, strict=True)]


def own_mask(
  frozen: list[tf.Tensor], changed: list[tf.Tensor], known: tf.Tensor
) -> list[tf.Tensor]:
  """bool, shaped as the mask: what is frozen and has not changed since version `known`."""
  return [mask & (c <= known) for mask, c in zip(frozen, changed, strict=True)]


class Book(NamedTuple):
  """A summary of what changed when, the same for all clients, to compute downlink costs from.

  version: int32 [], the version of the model that is broadcast.
  bits_by_version: int64 [v], the bits of the values that last changed in version i; v is more
    than `version`, and a multiple of 1,024, so that shapes rarely change.
  units_by_version: int64 [v], the number of entries of the mask for these values.
  num_frozen: int64 [], the number of frozen entries of the mask.
  active_bits: int64 [], the bits of the values that are not frozen.
  """

  version: tf.Tensor
  bits_by_version: tf.Tensor
  units_by_version: tf.Tensor
  num_frozen: tf.Tensor
  active_bits: tf.Tensor


def sum_up(
  changed: list[tf.Tensor], frozen: list[tf.Tensor], version: tf.Tensor, value_spec: Any
) -> Book:
  """Summarises `changed` (see `initial_changed`) and the mask of the next round."""
  length = _VERSIONS_AT_A_TIME * (version // _VERSIONS_AT_A_TIME + 1)
  bits, units = [], []
  for when, spec in zip(changed, tf.nest.flatten(value_spec), strict=True):
    counts = tf.math.bincount(
      tf.reshape(when, [-1]), minlength=length, maxlength=length, dtype=tf.int64
    )
    bits_per_unit = structures.num_elements(spec) // max(structures.num_elements(when), 1)
    units.append(counts)
    bits.append(counts * bits_per_unit * spec.dtype.size * 8)
  return Book(
    version=version,
    bits_by_version=tf.add_n(bits),
    units_by_version=tf.add_n(units),
    num_frozen=structures.count(frozen, frozen),
    active_bits=ledger.selected_price([~mask for mask in frozen], value_spec)['payload'],
  )


def _num_units(settings: settings_lib.Settings, spec: tf.TensorSpec) -> int:
  return 1 if settings.granularity == 'tensor' else structures.num_elements(spec)


def _state_bits(settings: settings_lib.Settings, value_spec: Any) -> int:
  """The bits of what a client needs, besides the model, to run the checks itself: E, A, L, U."""
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
  known: tf.Tensor,
  book: Book,
) -> ledger.Price:
  """The cost, in bits, of bringing a client from version `known` to that of `book`.

  payload: the values that changed in the last round. A client that has the previous version lacks
    only these.
  catch_up: the values that changed in earlier rounds since `known`; everything for a new client.
    With `mask_policy='derived'` also the state of the checks that the client missed.
  index_or_mask: with `mask_policy='server'` the mask, if there was a check since `known`. For a
    client that missed a check, also the coordinates of the values, unless all values are sent.
  A set is sent as a bitmap or as indices, whichever is shorter, so an empty mask is free.

  Args:
    settings: How parameters are frozen.
    mask_policy: `'server'`: the server sends the mask after each check; for sampled clients.
      `'derived'`: clients keep the state of the checks (four more numbers per parameter) and run
      them too; for full participation. Then a client that takes part in every round needs no
      mask, but one that missed a check downloads that state.
    value_spec: `tf.TensorSpec`s of the trainable weights.
    known: int32 [], the version that the client has; `NEVER_SEEN` for none.
    book: What changed when.
  """
  version, every = book.version, settings.check_every
  versions = tf.range(tf.shape(book.bits_by_version)[0])
  missed = versions > known
  bits = tf.where(missed, book.bits_by_version, 0)
  payload = tf.reduce_sum(tf.where(tf.equal(versions, version), bits, 0))
  catch_up = tf.reduce_sum(tf.where(versions < version, bits, 0))
  set_bits = tf.constant(0, tf.int64)
  if settings.stability_threshold == 0:  # Nothing is ever frozen, so no mask is sent.
    pass
  elif mask_policy == 'server':
    num_units = sum(_num_units(settings, spec) for spec in tf.nest.flatten(value_spec))
    num_lacking = tf.reduce_sum(tf.where(missed, book.units_by_version, 0))
    missed_check = known < every * (version // every)
    # The client's mask tells what changed in the one round after it.
    unknown = missed_check & (known < version - 1) & (num_lacking < num_units)
    mask_bits = ledger.index_set_bits(book.num_frozen, num_units)
    lacking_bits = ledger.index_set_bits(num_lacking, num_units)
    set_bits = tf.where(missed_check, mask_bits, 0) + tf.where(unknown, lacking_bits, 0)
  else:
    # The client can run a check of this version itself, with the values it receives.
    missed_check = known < every * ((version - 1) // every)
    state_bits = tf.cast(_state_bits(settings, value_spec), tf.int64)
    state_bits = tf.where(version >= every, state_bits, 0)
    # Between checks it also needs the changes of active values since the last check.
    state_bits += tf.where(version % every > 0, book.active_bits, 0)
    catch_up += tf.where(missed_check, state_bits, 0)
  return ledger.price(payload=payload, index_or_mask=set_bits, catch_up=catch_up)
