import numpy as np
import pytest
import tensorflow as tf

from tests.models import copies_test
from tff_lowrank import objectives
from tff_lowrank.tasks import functional_model

SPEC = dict(x=tf.TensorSpec([None, 4]), y=tf.TensorSpec([None], tf.int32))


@pytest.mark.parametrize('is_nested_frozen', [False, True])
def test_of_nested_and_frozen_layers(is_nested_frozen):
  model = copies_test.build(is_nested_frozen)
  chosen = objectives.CLASSIFICATION
  found = functional_model.from_keras(model, chosen.loss, SPEC, chosen.metrics)
  for mine, kind in zip(found.initial_weights, ('trainable', 'non_trainable'), strict=True):
    for one, other in zip(mine, getattr(model, f'{kind}_variables'), strict=True):
      np.testing.assert_array_equal(one, other)
  x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
  y = np.arange(5) % 3
  expected = model(x)
  expected_loss = float(chosen.loss(y, expected))
  with tf.Graph().as_default() as graph:
    weights = tuple([tf.constant(w) for w in kind] for kind in found.initial_weights)
    output = found.predict_on_batch(weights, tf.constant(x), training=False)
    dropped = found.predict_on_batch(weights, tf.constant(x), training=True)
    loss = found.loss(output=output, label=tf.constant(y))
  with tf.compat.v1.Session(graph=graph) as session:
    output, dropped, loss = session.run((output, dropped, loss))
  np.testing.assert_allclose(output, expected, rtol=1e-5)
  assert not np.allclose(output, dropped)
  assert loss == pytest.approx(expected_loss, rel=1e-5)
