"""Central evaluation of a model."""

import collections
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.datasets import arrays

BATCH_SIZE = 1000


def build_evaluation(
  model: tff.learning.models.FunctionalModel,
  test: arrays.Split,
  preprocess: Callable[[Any], Any],
) -> Callable[[tff.learning.models.ModelWeights], collections.OrderedDict[str, float]]:
  """A function from model weights to the model's metrics on all of `test`.

  It runs as a TFF computation, on the context in place when it is called.
  """
  dataset = tf.data.Dataset.from_tensor_slices(collections.OrderedDict(x=test.x, y=test.y))
  dataset = dataset.batch(BATCH_SIZE).map(preprocess).cache()
  weights_type = tff.types.tensorflow_to_type(
    tff.learning.models.ModelWeights(
      *(tuple(tf.TensorSpec(w.shape, w.dtype) for w in kind) for kind in model.initial_weights)
    )
  )

  @tff.tensorflow.computation(
    weights_type, tff.SequenceType(tff.types.tensorflow_to_type(model.input_spec))
  )
  def metrics_on(weights, batches):
    weights = (weights.trainable, weights.non_trainable)

    def update(state, batch):
      output = model.predict_on_batch(weights, batch['x'], training=False)
      result = tff.learning.models.BatchOutput(
        loss=model.loss(output=output, label=batch['y']),
        predictions=output,
        num_examples=tf.shape(output)[0],
      )
      return model.update_metrics_state(state, batch_output=result, labels=batch['y'])

    return model.finalize_metrics(batches.reduce(model.initialize_metrics_state(), update))

  def evaluate(weights):
    found = metrics_on(weights, dataset)
    return collections.OrderedDict((name, float(value)) for name, value in found.items())

  return evaluate
