"""Prices of what a client lacks, by hand."""

import numpy as np
import tensorflow as tf

from tff_lowrank import freezing
from tff_lowrank.freezing import synchronisation

# Ten scalars: an index takes 4 bits, a bitmap 10.
SPEC = [tf.TensorSpec([6]), tf.TensorSpec([2, 2])]


def mask(*frozen):
  flat = np.zeros(10, bool)
  flat[list(frozen)] = True
  return [tf.constant(flat[:6]), tf.constant(flat[6:].reshape(2, 2))]


def price(settings, policy, known, version, changed, frozen):
  if len(changed) == 10:
    changed = np.asarray(changed, np.int32)
    changed = [tf.constant(changed[:6]), tf.constant(changed[6:].reshape(2, 2))]
  book = synchronisation.sum_up(changed, frozen, tf.constant(version), SPEC)
  bits = synchronisation.downlink_price(settings, policy, SPEC, tf.constant(known), book)
  return {kind: int(b) for kind, b in bits.items() if int(b)}


APF = freezing.Settings()
# In version 5: coordinates 0 to 3 changed last in round 5, 4 to 6 in round 3, the rest in 2.
CHANGED = [5, 5, 5, 5, 3, 3, 3, 2, 2, 2]
FROZEN = mask(4, 5, 6, 7, 8, 9)


def test_changed_follows_the_mask():
  changed = synchronisation.initial_changed(mask())
  changed = synchronisation.next_changed(changed, mask(0, 7), tf.constant(1))
  changed = synchronisation.next_changed(changed, mask(0, 8), tf.constant(2))
  flat = np.concatenate([np.ravel(c) for c in changed])
  assert flat.tolist() == [0, 2, 2, 2, 2, 2, 2, 2, 1, 2]


def test_clients_own_what_froze_before_they_were_last_here():
  changed = [tf.constant([5, 3, 2])]
  own = synchronisation.own_mask([tf.constant([False, True, True])], changed, tf.constant(2))
  assert own[0].numpy().tolist() == [False, False, True]


def test_client_of_the_round_before():
  # Four values; which they are the old mask tells.
  assert price(APF, 'derived', 4, 5, CHANGED, FROZEN) == dict(payload=4 * 32)
  # There was a check: the new mask, six indices of 4 bits or a bitmap of 10.
  assert price(APF, 'server', 4, 5, CHANGED, FROZEN) == dict(payload=4 * 32, index_or_mask=10)
  few = mask(4, 5)
  assert price(APF, 'server', 4, 5, CHANGED, few) == dict(payload=4 * 32, index_or_mask=2 * 4)


def test_client_that_has_the_version_is_sent_nothing():
  for policy in synchronisation.MASK_POLICIES:
    assert price(APF, policy, 5, 5, CHANGED, FROZEN) == {}


def test_returning_client():
  # Last here for version 2: seven values, their set (a bitmap) and the mask (a bitmap).
  assert price(APF, 'server', 2, 5, CHANGED, FROZEN) == dict(
    payload=4 * 32, catch_up=3 * 32, index_or_mask=10 + 10
  )
  # Deriving masks takes E, A, L and U; they also tell which coordinates the values are of.
  assert price(APF, 'derived', 2, 5, CHANGED, FROZEN) == dict(
    payload=4 * 32, catch_up=3 * 32 + 4 * 32 * 10
  )


def test_new_client():
  # The whole model needs no set.
  assert price(APF, 'server', -1, 5, CHANGED, FROZEN) == dict(
    payload=4 * 32, catch_up=6 * 32, index_or_mask=10
  )
  assert price(APF, 'derived', -1, 5, CHANGED, FROZEN) == dict(
    payload=4 * 32, catch_up=6 * 32 + 4 * 32 * 10
  )


def test_first_round_is_the_model():
  for policy in synchronisation.MASK_POLICIES:
    for every in (1, 3):
      settings = freezing.Settings(check_every=every)
      assert price(settings, policy, -1, 0, [0] * 10, mask()) == dict(payload=320)


def test_threshold_zero_is_fed_avg_for_everybody():
  off = freezing.Settings(stability_threshold=0)
  for policy in synchronisation.MASK_POLICIES:
    for known in (-1, 1, 4):
      assert price(off, policy, known, 5, [5] * 10, mask()) == dict(payload=320)


def test_checks_are_rarer_than_rounds():
  # Checks made versions 3 and 6; now is 5. Since version 3 nothing moved but coordinates 0 to 3.
  sparse = freezing.Settings(check_every=3)
  changed = [5, 5, 5, 5, 3, 3, 3, 2, 2, 2]
  # Missed round 4 but no check: the mask that it knows tells what the values are of.
  assert price(sparse, 'server', 3, 5, changed, FROZEN) == dict(payload=4 * 32)
  assert price(sparse, 'derived', 3, 5, changed, FROZEN) == dict(payload=4 * 32)
  # Missed check 3: the derived policy also needs what changed since it, of what is active.
  assert price(sparse, 'server', 2, 5, changed, FROZEN) == dict(
    payload=4 * 32, catch_up=3 * 32, index_or_mask=20
  )
  assert price(sparse, 'derived', 2, 5, changed, FROZEN) == dict(
    payload=4 * 32, catch_up=3 * 32 + 4 * 32 * 10 + 4 * 32
  )
  # A check that made the version it is sent, a client with the values can run itself.
  assert price(sparse, 'derived', 4, 6, [6] * 4 + [3] * 3 + [2] * 3, mask()) == dict(payload=4 * 32)


def test_a_tensor_as_one_parameter():
  whole = freezing.Settings(granularity='tensor')
  changed, frozen = [tf.constant(5), tf.constant(2)], [tf.constant(False), tf.constant(True)]
  # Six values; one of two tensors is frozen: one bit as an index, another to tell the set.
  assert price(whole, 'server', 2, 5, changed, frozen) == dict(payload=6 * 32, index_or_mask=2)


def test_window_keeps_its_history_instead_of_the_averages():
  window = freezing.Settings(window=7)
  assert price(window, 'derived', -1, 5, CHANGED, FROZEN)['catch_up'] == 6 * 32 + (7 + 2) * 320


def test_book_by_hand():
  changed = [tf.constant([5, 5, 5, 5, 3, 3]), tf.constant([[3, 2], [2, 2]])]
  spec = [tf.TensorSpec([6]), tf.TensorSpec([2, 2], tf.float64)]
  book = synchronisation.sum_up(changed, FROZEN, tf.constant(5), spec)
  assert book.bits_by_version.shape == book.units_by_version.shape == [1024]
  assert book.bits_by_version.numpy()[:7].tolist() == [0, 0, 192, 2 * 32 + 64, 0, 128, 0]
  assert book.units_by_version.numpy()[:7].tolist() == [0, 0, 3, 3, 0, 4, 0]
  assert (book.num_frozen, book.active_bits, book.version) == (6, 4 * 32, 5)
  later = synchronisation.sum_up(changed, FROZEN, tf.constant(1024), spec)
  assert later.bits_by_version.shape == [2048]


def test_prices_do_not_change_after_a_thousand_versions():
  shifted = [c + 2000 for c in CHANGED]
  for known in (2, 4):
    for policy in synchronisation.MASK_POLICIES:
      assert price(APF, policy, known, 5, CHANGED, FROZEN) == price(
        APF, policy, known + 2000, 2005, shifted, FROZEN
      )
