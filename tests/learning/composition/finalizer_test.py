import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.execution import graphs
from tff_lowrank.learning.composition import finalizer

SPEC = tff.learning.models.ModelWeights(
  trainable=(tf.TensorSpec([2, 3]), tf.TensorSpec([3])),
  non_trainable=(tf.TensorSpec([], tf.int32),),
)
TYPE = tff.types.tensorflow_to_type(SPEC)
OPTIMIZERS = dict(
  sgd=tff.learning.optimizers.build_sgdm(0.1),
  momentum=tff.learning.optimizers.build_sgdm(0.1, momentum=0.9),
  adam=tff.learning.optimizers.build_adam(0.1),
  adagrad=tff.learning.optimizers.build_adagrad(0.1),
  rmsprop=tff.learning.optimizers.build_rmsprop(0.1),
  yogi=tff.learning.optimizers.build_yogi(0.1),
  adamw=tff.learning.optimizers.build_adamw(0.1),
)


def rounds(process, rng, is_finite):
  """The state, the weights and the measurements of a few rounds, flat."""
  weights = tff.learning.models.ModelWeights(
    (rng.normal(size=[2, 3]).astype(np.float32), rng.normal(size=3).astype(np.float32)),
    (np.int32(7),),
  )
  state, found = process.initialize(), []
  for finite in is_finite:
    update = [rng.normal(size=w.shape).astype(np.float32) for w in weights.trainable]
    if not finite:
      update[1][2] = np.inf
    output = process.next(state, weights, tuple(update))
    state, weights = output.state, output.result
    found.append(tf.nest.flatten((output.state, output.result, output.measurements)))
  return found


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_equal_to_tff_s_own_to_the_bit(name):
  built = (
    finalizer.build_finalizer(OPTIMIZERS[name], TYPE),
    tff.learning.templates.build_apply_optimizer_finalizer(OPTIMIZERS[name], TYPE),
  )
  assert built[0].next.type_signature.is_equivalent_to(built[1].next.type_signature)
  found, expected = (
    rounds(process, np.random.default_rng(0), [True, False, True, True]) for process in built
  )
  for one, other in zip(found, expected, strict=True):
    for a, b in zip(one, other, strict=True):
      np.testing.assert_array_equal(a, b, strict=True)


def test_an_update_that_is_not_finite_changes_nothing(rng):
  process = finalizer.build_finalizer(OPTIMIZERS['momentum'], TYPE)
  first, second = rounds(process, rng, [True, False])
  for before, after in zip(first[:-1], second[:-1], strict=True):
    np.testing.assert_array_equal(before, after)
  assert (first[-1], second[-1]) == (0, 1)


def test_has_half_of_tff_s_operations_at_most():
  def count(process):
    blocks = [process.next.to_building_block()]
    total = 0
    while blocks:
      block = blocks.pop()
      if isinstance(block, tff.framework.CompiledComputation):
        graph = graphs.GraphFunction(block.proto.tensorflow)
        total += sum(1 for _ in graph.operations())
      blocks += block.children()
    return total

  ours = count(finalizer.build_finalizer(OPTIMIZERS['momentum'], TYPE))
  theirs = count(
    tff.learning.templates.build_apply_optimizer_finalizer(OPTIMIZERS['momentum'], TYPE)
  )
  assert 0 < ours < theirs / 2
