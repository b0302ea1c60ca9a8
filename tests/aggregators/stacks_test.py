"""Every stack of codecs as TFF runs it: in a graph, against the same codec run eagerly."""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests import contract_test
from tff_lowrank import aggregators
from tff_lowrank import codecs
from tff_lowrank import structures

VALUE = tff.to_type(collections.OrderedDict(w=(np.float32, (6, 5)), b=(np.float32, (5,))))
WEIGHT = tff.TensorType(np.float32)
SPECS = tff.types.type_to_tf_tensor_specs(VALUE)


def draw(rng):
  return collections.OrderedDict(
    w=rng.normal(size=(6, 5)).astype(np.float32), b=rng.normal(size=5).astype(np.float32)
  )


def eager_round(codec, memories, values, weights, model, last_update, round_num):
  """A round by its definition: (memories, mean of the decoded, uplink bits of each)."""
  reference = codecs.Reference(model=tf.nest.flatten(model), last_update=last_update)
  kept, total, weight_sum, bits = [], 0.0, 0.0, []
  for memory, value, weight in zip(memories, values, weights, strict=True):
    encoded = codec.encode(memory, value, tf.constant([5, round_num]), reference)
    decoded = codec.decode(memory, encoded.message)
    flat = np.concatenate([np.ravel(x) for x in decoded]).astype(np.float64)
    counted = weight * float(encoded.takes_part)
    total, weight_sum = total + counted * flat, weight_sum + counted
    kept.append(encoded.memory)
    bits.append(int(codec.message_bits(encoded.message)))
  return kept, total / weight_sum if weight_sum else 0 * total, bits


@pytest.mark.parametrize('text', contract_test.SOME_QUICK)
def test_tff_runs_it_as_defined(text, rng):
  codec = codecs.parse(text)
  weights = [1.0, 2.0, 3.0]
  if codec.has_memory or codec.traits.needs_model:
    process = aggregators.ClientStatefulCodedMeanFactory(codec, seed=5).create(VALUE, WEIGHT)
  else:
    factory = aggregators.CodedMeanFactory(codec, seed=5)
    process = factory.create_reporting(VALUE, WEIGHT)
  state = process.initialize()
  memories = [process.initialize_client()] * 3
  expected = [codec.initial_memory(SPECS)] * 3
  last_update = structures.zeros(tf.nest.flatten(SPECS))
  base = [draw(rng) for _ in range(3)]
  for round_num in range(3):
    # Updates that sometimes repeat themselves, and once are zero.
    factors = [np.float32(0 if round_num == i else 0.7) for i in range(3)]
    values = [
      collections.OrderedDict((name, factor * x) for name, x in value.items())
      for factor, value in zip(factors, base, strict=True)
    ]
    model = draw(rng)
    arguments = [state, memories, values, weights]
    if process.takes_model:
      arguments.append([model] * 3)
    output = process.next(*arguments)
    state, memories = output.state, output.client_state
    expected, mean, bits = eager_round(
      codec, expected, values, weights, model, last_update, round_num
    )
    result = np.concatenate([np.ravel(x) for x in tf.nest.flatten(output.result)])
    np.testing.assert_allclose(result, mean, rtol=1e-4, atol=1e-5)
    assert [sum(report['uplink'].values()) for report in output.reports] == bits
    last_update = [tf.constant(x) for x in tf.nest.flatten(output.result)]


def test_zero_look_back_is_never_recycled():
  # In a graph as TFF builds it, == compares tensors by identity.
  codec = codecs.LookBack(threshold=1.0)
  process = aggregators.ClientStatefulCodedMeanFactory(codec).create(VALUE, WEIGHT)
  zero = tf.nest.map_structure(lambda s: np.zeros(s.shape, np.float32), SPECS)
  one = tf.nest.map_structure(lambda x: x + 1, zero)
  first = process.next(process.initialize(), [process.initialize_client()], [zero], [1.0])
  second = process.next(first.state, first.client_state, [one], [1.0])
  np.testing.assert_array_equal(second.result['w'], one['w'])
