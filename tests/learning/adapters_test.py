"""Federated adapters: what a round of FedAvg makes of the clients' kernels."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import layers
from tff_lowrank import learning

sgd = tff.learning.optimizers.build_sgdm


def pretrained(rng):
  model = tf.keras.Sequential(
    [
      tf.keras.layers.InputLayer((linear.FEATURES,)),
      tf.keras.layers.Dense(7, 'tanh'),
      tf.keras.layers.Dense(linear.CLASSES),
    ]
  )
  model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
  return model


@pytest.mark.parametrize('one_factor', [True, False])
def test_the_global_kernel_is_the_mean_of_the_clients_if_one_factor_trains(rng, one_factor):
  adapted = layers.to_adapters(
    pretrained(rng), 2, product='plain', one_factor=one_factor, scale=2.0
  ).model
  frozen = [v.numpy() for v in adapted.non_trainable_variables]
  model = tff.learning.models.functional_model_from_keras(
    adapted,
    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    (tf.TensorSpec([None, linear.FEATURES]), tf.TensorSpec([None], tf.int32)),
  )
  process = learning.build_fed_avg(model, sgd(0.5))
  data = []
  for size in (8, 12):
    x, y = linear.examples(rng, size)
    data.append(tf.data.Dataset.from_tensor_slices((x, y)).batch(4))

  def kernels(state):
    process.get_model_weights(state).assign_weights_to(adapted)
    adapters = (layer for layer in adapted.layers if isinstance(layer, layers.AdapterDense))
    return [layer.kernel.numpy() for layer in adapters]

  state = process.initialize()
  for _ in range(3):
    before = kernels(state)
    alone = [kernels(process.next(state, [()], [one]).state) for one in data]
    output = process.next(state, [()] * 2, data)
    state = output.state
    off = [
      np.linalg.norm(got - (0.4 * a + 0.6 * b)) / np.linalg.norm(got - start)
      for got, a, b, start in zip(kernels(state), *alone, before, strict=True)
    ]
    # 0.4 and 0.6 are the shares of the examples.
    if one_factor:
      assert max(off) < 1e-5
  # x starts at 0, so that the clients' y differ from the second round on.
  assert one_factor or max(off) > 1e-3
  for a, b in zip(frozen, [v.numpy() for v in adapted.non_trainable_variables], strict=True):
    np.testing.assert_array_equal(a, b)
  # x of 7 and 3 units by rank 2; with y, of 6 and 7 inputs, besides.
  numbers = 2 * (7 + 3) + (0 if one_factor else 2 * (6 + 7))
  assert all(int(r['uplink']['payload']) == 32 * numbers for r in output.reports)
