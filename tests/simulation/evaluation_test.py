import collections

import numpy as np
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank.datasets import arrays
from tff_lowrank.simulation import evaluation


def test_metrics_are_those_of_numpy_over_several_batches(rng):
  model = linear.build_model(rng)
  x, y = linear.examples(rng, 2 * evaluation.BATCH_SIZE + 17)
  evaluate = evaluation.build_evaluation(
    model, arrays.Split(x, y), lambda b: collections.OrderedDict(x=b['x'] / 2, y=b['y'])
  )
  kernel, bias = model.initial_weights[0]
  logits = (x / 2) @ kernel + bias
  p = np.exp(logits - logits.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  got = evaluate(tff.learning.models.ModelWeights((kernel, bias), ()))
  np.testing.assert_allclose(got['loss'], -np.log(p[np.arange(len(y)), y]).mean(), rtol=1e-5)
  np.testing.assert_allclose(got['accuracy'], (p.argmax(1) == y).mean(), rtol=1e-6)
