"""The laws catch codecs that break them."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import codecs
from tff_lowrank import ledger
from tff_lowrank import testing

VALUES = [[np.float32([1, -2, 3]), np.float32([0.5])]]


class Wrong(codecs.Identity):
  """Identity with what a test breaks."""


def broken(**parts):
  return type('Broken', (Wrong,), parts)()


class HasTraits:
  def __init__(self, **traits):
    self._traits = codecs.Traits(**traits)

  def __get__(self, instance, owner):
    return self._traits


def test_the_edge_values_pass_a_right_codec():
  testing.check_contract(codecs.Identity(), testing.edge_values())


def cheaper(self, message):
  return ledger.price(payload=32 * 4 - 8)


def one_number_less(self, reader, value_spec, memory=None):
  return [np.zeros_like(x) for x in codecs.Identity.read(self, reader, value_spec)]


def halved(self, memory, message):
  return [x / 2 for x in message]


def doubled(self, memory, message):
  return [3 * x for x in message]


def squared(self, memory, message):
  return [x * tf.abs(x) for x in message]


class Remembering(codecs.Identity):
  """Keeps what it should not: a count of calls in the class."""

  calls = 0

  def encode(self, memory, value, seed, reference=None):
    type(self).calls += 1
    return codecs.Encoded([x + type(self).calls for x in value], memory)


class Unmirrored(codecs.Identity):
  """Decodes with a memory that the server never learns."""

  traits = HasTraits(has_memory=True)

  def initial_memory(self, value_spec):
    return collections.OrderedDict(offset=tf.constant(0.0))

  def encode(self, memory, value, seed, reference=None):
    message = [x - memory['offset'] for x in value]
    return codecs.Encoded(message, collections.OrderedDict(offset=tf.reduce_sum(value[0])))

  def decode(self, memory, message):
    return [x + memory['offset'] for x in message]


@pytest.mark.parametrize(
  'codec, law, arguments, found',
  [
    (broken(message_price=cheaper), testing.check_size, [VALUES], 'cost 120 bits, packed 128'),
    (broken(read=one_number_less), testing.check_round_trip, [VALUES], 'round trip'),
    (broken(decode=halved), testing.check_unbiased, [VALUES[0], 10], 'mean'),
    (broken(decode=doubled), testing.check_contraction, [VALUES[0]], 'error'),
    (broken(decode=squared), testing.check_linear, [VALUES[0], VALUES[0]], 'sums differ'),
    (Remembering(), testing.check_keeps_nothing, [VALUES], 'first of two'),
    (Unmirrored(), testing.check_memory_symmetry, [VALUES * 2], 'mirror, round 1'),
  ],
)
def test_a_broken_law_is_found(codec, law, arguments, found):
  with pytest.raises(AssertionError, match=found):
    law(codec, *arguments)


def test_a_size_that_varies_must_be_declared(rng):
  codec = codecs.TopK(3)
  values = [[rng.normal(size=500).astype(np.float32)] for _ in range(5)]
  testing.check_size(codec, values)
  fixed = type('Fixed', (codecs.TopK,), dict(traits=codecs.Traits()))(3)
  with pytest.raises(AssertionError, match='one size'):
    testing.check_size(fixed, values)


def test_lost_mass_is_found(rng):
  class Leaking(codecs.ErrorFeedback):
    def encode(self, memory, value, seed, reference=None):
      encoded = super().encode(memory, value, seed, reference)
      encoded.memory['residual'] = [0.9 * x for x in encoded.memory['residual']]
      return encoded

  values = [[rng.normal(size=9).astype(np.float32)] for _ in range(5)]
  testing.check_conservation(codecs.ErrorFeedback(codecs.TopK(1)), values)
  with pytest.raises(AssertionError, match='lost in 5 rounds'):
    testing.check_conservation(Leaking(codecs.TopK(1)), values)


def test_integers_must_be_refused():
  def takes_all(self, memory, value, seed, reference=None):
    return codecs.Encoded(value, memory)

  with pytest.raises(AssertionError, match='accepted integers'):
    testing.check_refuses_integers(broken(encode=takes_all))
