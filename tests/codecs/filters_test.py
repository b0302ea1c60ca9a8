import numpy as np
import pytest
import tensorflow as tf

from tests.codecs import codec_cases
from tff_lowrank import codecs
from tff_lowrank import structures


def gaia(codec, updates, models):
  """The decoded messages of one client in a row."""
  memory, decoded = codec.initial_memory(structures.specs(updates[0])), []
  for update, model in zip(updates, models, strict=True):
    reference = codecs.Reference(model=[tf.constant(m) for m in model])
    encoded = codec.encode(memory, update, codec_cases.SEED, reference)
    decoded.append(np.asarray(codec.decode(memory, encoded.message)[0]))
    memory = encoded.memory
  return decoded, encoded.message


def test_gaia_sends_what_is_large_against_the_new_weight():
  # APF's code: |old / new - 1| > s, with new = old - update. 0 / 0 is not significant, x / 0 is.
  old = np.float32([1.0, 1.0, 0.0, 0.5, -2.0])
  update = np.float32([0.1, -0.05, 0.0, 0.5, 0.3])
  with np.errstate(divide='ignore', invalid='ignore'):
    significant = np.abs(old / (old - update) - 1) > 0.1
  assert significant.tolist() == [True, False, False, True, True]
  (got,), message = gaia(codecs.Gaia(0.1, accumulate=False), [[update]], [[old]])
  np.testing.assert_array_equal(got, np.where(significant, update, 0))
  # The count, 0 to 5, in 3 bits; the form in 1; 5 bits of bitmap; three floats. Rice is not
  # shorter: b = 0 (9/13 * 5 = 3, 3 // 3 = 1), gaps 0, 2, 0: 2 + 3 = 5.
  assert int(codecs.Gaia().message_bits(message)) == 3 + 1 + 5 + 96
  assert int(codecs.Gaia().official_units(message)) == 3


def test_gaia_accumulates_until_it_matters(rng):
  updates = [[0.04 * np.ones(1, np.float32)]] * 4
  models = [[np.ones(1, np.float32)]] * 4
  got, _ = gaia(codecs.Gaia(0.1), updates, models)
  # 0.04 and 0.08 stay below 0.1 of the weight after them; 0.12 does not.
  np.testing.assert_allclose(np.ravel(got), [0, 0, 0.12, 0], rtol=1e-6)
  lost, _ = gaia(codecs.Gaia(0.1, accumulate=False), updates, models)
  np.testing.assert_array_equal(np.ravel(lost), [0, 0, 0, 0])


def test_gaia_threshold_decays_with_messages():
  # s_t = 0.1 / sqrt(1 + t / 1): 0.1, 0.0707, 0.0577; an update of 0.06 of the new weight.
  updates, models = [[np.float32([0.06])]] * 3, [[np.float32([1.06])]] * 3
  got, _ = gaia(codecs.Gaia(0.1, decay=1, accumulate=False), updates, models)
  np.testing.assert_allclose(np.ravel(got), [0, 0, 0.06])


def test_gaia_threshold_zero_sends_all_that_changed(rng):
  update = np.float32([1e-30, 0, -2])
  (got,), message = gaia(codecs.Gaia(0.0, accumulate=False), [[update]], [[np.ones(3, 'f')]])
  np.testing.assert_array_equal(got, update)
  assert int(message[0].count) == 2


def cmfl(codec, update, last):
  reference = codecs.Reference(last_update=[tf.constant(last)])
  memory = codec.initial_memory(structures.specs([update]))
  encoded = codec.encode(memory, [update], codec_cases.SEED, reference)
  return encoded, codec.decode(memory, encoded.message)[0]


def test_cmfl_sends_by_relevance():
  update, last = np.float32([1, -2, 3, 0, 5e-30]), np.float32([1, 1, -1, 1, 2e-30])
  # Products 1, -2, -3, 0 and 1e-59 (which float32 has no room for): three of five agree.
  for threshold, sends in ((0.59, True), (0.6, False)):
    codec = codecs.CMFL(threshold)
    encoded, got = cmfl(codec, update, last)
    assert bool(encoded.takes_part) == sends
    assert float(encoded.measurements['relevance'][0]) == pytest.approx(0.6)
    np.testing.assert_array_equal(got, update if sends else 0 * update)
    assert int(codec.message_bits(encoded.message)) == (1 + 160 if sends else 1)
    counted, _ = cmfl(codecs.CMFL(threshold, irrelevant='zero'), update, last)
    assert counted.takes_part is True


def test_cmfl_all_agree_in_the_first_round():
  encoded, _ = cmfl(codecs.CMFL(0.99), np.float32([1, -2]), np.float32([0, 0]))
  assert bool(encoded.takes_part)


def test_cmfl_leaves_the_memory_of_a_client_that_does_not_send(rng):
  codec = codecs.CMFL(0.5, codecs.ErrorFeedback(codecs.TopK(1)))
  update = np.float32([3, -2])
  encoded, _ = cmfl(codec, update, -update)
  np.testing.assert_array_equal(encoded.memory['residual'][0], [0, 0])
  encoded, _ = cmfl(codec, update, update)
  np.testing.assert_array_equal(encoded.memory['residual'][0], [0, -2])


def test_filters_say_what_they_lack():
  with pytest.raises(ValueError, match='Gaia needs the weights'):
    codecs.Gaia(accumulate=False).encode((), [np.float32([1])], codec_cases.SEED)
  with pytest.raises(ValueError, match='CMFL needs the last global update'):
    codecs.CMFL().encode((), [np.float32([1])], codec_cases.SEED)


def test_nothing_goes_around_cmfl():
  for outer in (codecs.LookBack, codecs.ErrorFeedback, codecs.CMFL):
    with pytest.raises(ValueError, match='cannot be around cmfl.*Put cmfl around'):
      outer(inner=codecs.CMFL())
