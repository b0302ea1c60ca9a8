"""Evaluation of the global model on central data, and of each client's own model on its data."""

import collections
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import learning
from tff_lowrank.client_work import schedule as schedule_lib
from tff_lowrank.client_work import training as training_lib
from tff_lowrank.datasets import arrays
from tff_lowrank.models import keyed

BATCH_SIZE = 1000
# Preprocessed test sets up to this size are kept in memory.
_CACHED_BYTES = 128 << 20
TRAINED_ACCURACY = 'personal_accuracy_after_training'

PERSONAL_METRICS = ('personal_loss', 'personal_accuracy', 'personal_accuracy_by_examples')


def _build_metrics_on(model: tff.learning.models.FunctionalModel) -> tff.Computation:
  """`(<ModelWeights, {B*}> -> metrics)`, finalized."""
  weights_type = tff.types.tensorflow_to_type(
    tff.learning.models.ModelWeights(
      *(tuple(tf.TensorSpec(w.shape, w.dtype) for w in kind) for kind in model.initial_weights)
    )
  )

  @tff.tensorflow.computation(
    weights_type,
    tff.SequenceType(tff.types.tensorflow_to_type(keyed.without_key(model.input_spec))),
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

  return metrics_on


def _bytes_of_batch(spec: Any, num_examples: int) -> int:
  """The bytes of `num_examples` examples in batches of type `spec` with known other lengths."""
  return num_examples * sum(
    s.shape[1:].num_elements() * s.dtype.size for s in tf.nest.flatten(spec)
  )


def build_evaluation(
  model: tff.learning.models.FunctionalModel,
  test: arrays.Split,
  preprocess: Callable[[Any], Any],
  batch_size: int = BATCH_SIZE,
) -> Callable[[tff.learning.models.ModelWeights], collections.OrderedDict[str, float]]:
  """A function from model weights to the model's metrics on all of `test`.

  It runs as a TFF computation, in the context installed when it is called, with batches of
  `batch_size` examples.
  """
  dataset = tf.data.Dataset.from_tensor_slices(collections.OrderedDict(x=test.x, y=test.y))
  dataset = dataset.batch(batch_size).map(preprocess)
  if _bytes_of_batch(dataset.element_spec, len(test.y)) <= _CACHED_BYTES:
    dataset = dataset.cache()
  metrics_on = _build_metrics_on(model)

  def evaluate(weights):
    found = metrics_on(weights, dataset)
    return collections.OrderedDict((name, float(value)) for name, value in found.items())

  return evaluate


def _build_metrics_of_clients(
  model: tff.learning.models.FunctionalModel, process: learning.ClientStatefulLearningProcess
) -> tff.Computation:
  """`(<S@SERVER, C@CLIENTS, {B*}@CLIENTS> -> metrics@CLIENTS)`, for each client's own model."""
  metrics_on = _build_metrics_on(model)
  state_type, memory_type = process.get_client_model_weights.type_signature.parameter

  @tff.federated_computation(
    tff.FederatedType(state_type, tff.SERVER),
    tff.FederatedType(memory_type, tff.CLIENTS),
    tff.FederatedType(metrics_on.type_signature.parameter[1], tff.CLIENTS),
  )
  def metrics_of_clients(state, memory, batches):
    state = tff.federated_broadcast(state)
    own = tff.federated_map(process.get_client_model_weights, (state, memory))
    return tff.federated_map(metrics_on, (own, batches))

  return metrics_of_clients


def build_client_dataset(
  data: arrays.ExampleClientData, preprocess: Callable[[Any], Any], batch_size: int
) -> Callable[[str], tf.data.Dataset]:
  """A function from a client's id to a dataset of all its examples, for evaluation."""

  def dataset(client_id):
    examples = data.examples(client_id)
    prepared = preprocess(collections.OrderedDict(x=examples.x, y=examples.y))
    return tf.data.Dataset.from_tensor_slices(prepared).batch(batch_size)

  return dataset


class ClientMetrics(NamedTuple):
  """Metrics of a client's own model on `examples` of its examples."""

  client: str
  loss: float
  accuracy: float
  examples: int


def build_client_evaluation(
  model: tff.learning.models.FunctionalModel,
  process: learning.ClientStatefulLearningProcess,
  data: arrays.ExampleClientData,
  preprocess: Callable[[Any], Any],
  *,
  batch_size: int = BATCH_SIZE,
) -> Callable[[Any, Callable[[Sequence[str]], list[Any]], Sequence[str]], list[ClientMetrics]]:
  """A function `(state, read, client_ids) -> metrics` of each client's own model, by client.

  For the arguments, and for what a client's own model is, see `build_personal_evaluation`; `data`
  has the examples. Clients without examples are skipped.
  """
  metrics_of_clients = _build_metrics_of_clients(model, process)
  dataset = build_client_dataset(data, preprocess, batch_size)

  def evaluate(state, read, client_ids):
    chosen = [client for client in client_ids if data.num_examples(client)]
    if not chosen:
      return []
    found = metrics_of_clients(state, read(chosen), [dataset(client) for client in chosen])
    return [
      ClientMetrics(client, float(m['loss']), float(m['accuracy']), data.num_examples(client))
      for client, m in zip(chosen, found, strict=True)
    ]

  return evaluate


def build_personal_evaluation(
  model: tff.learning.models.FunctionalModel,
  process: learning.ClientStatefulLearningProcess,
  test: arrays.ExampleClientData,
  preprocess: Callable[[Any], Any],
  *,
  batch_size: int = BATCH_SIZE,
  client_optimizer: schedule_lib.ClientOptimizer | None = None,
  train_dataset: Callable[[str], tf.data.Dataset] | None = None,
  test_dataset: Callable[[str], Any] | None = None,
) -> Callable[[Any, Callable[[Sequence[str]], list[Any]]], collections.OrderedDict[str, float]]:
  """A function `(state, read) -> metrics` of each client's own model on its own test examples.

  A client's own model is `process.get_client_model_weights` between rounds: the newest global
  weights joined with the client's personal ones, before local training. If clients have few
  classes, it can be far less accurate than the model after local training. So with
  `client_optimizer` the latter is evaluated, too; the training is then discarded. Clients that
  never took part are evaluated, clients without test examples are not.

  Args:
    model: A model with metrics `loss` and `accuracy`.
    process: The process whose clients are evaluated.
    test: Each client's test examples.
    preprocess: As in `tasks.Task`.
    batch_size: Test examples per batch.
    client_optimizer: Runs the local steps of the second evaluation, on all weights, with the
      learning rate of the next round; must be that of `process`.
    train_dataset: A function from a client's id to its preprocessed batches for these steps.
    test_dataset: A function from a client's id to its test examples, as `build_client_dataset`, or
      their `execution.ClientDataset`.

  Returns:
    A function of the server's state and of `read`, a function from client ids to the client states
    in that order. It returns `PERSONAL_METRICS`: `personal_loss` and `personal_accuracy`, the
    unweighted means over clients, and `personal_accuracy_by_examples`, the mean weighted by the
    number of test examples; with `client_optimizer` also `TRAINED_ACCURACY`, the unweighted mean.

  Raises:
    ValueError: If no client has test examples, or only one of `client_optimizer` and the optimizer
      of `process` has a schedule by round, or rates by client.
  """
  client_ids = [c for c in test.client_ids if test.num_examples(c)]
  if not client_ids:
    raise ValueError(f'None of the {len(test.client_ids)} clients has test examples.')
  weights = [test.num_examples(c) for c in client_ids]

  test_dataset = test_dataset or build_client_dataset(test, preprocess, batch_size)
  datasets = [*map(test_dataset, client_ids)]
  metrics_of_clients = _build_metrics_of_clients(model, process)
  trained_metrics_of_clients = None
  if client_optimizer is not None:
    training = training_lib.build_training(model, client_optimizer)
    metrics_on = _build_metrics_on(model)
    round_type = metrics_of_clients.type_signature.parameter[0].member.client_work
    if (training.schedule is None) == isinstance(round_type, tff.TensorType):
      raise ValueError('`client_optimizer` must be that of `process`: only one has a schedule.')
    if training.data_type != process.next.type_signature.parameter[2].member:
      raise ValueError(
        '`client_optimizer` must be that of `process`: only one has rates by client.'
      )

    @tff.tensorflow.computation(round_type, training.weights_type, training.data_type)
    def trained(round_num, weights, batches):
      found = training.in_round(round_num).train(weights, None, batches).trainable
      return tff.learning.models.ModelWeights(found, weights.non_trainable)

    @tff.federated_computation(
      *metrics_of_clients.type_signature.parameter,
      tff.FederatedType(training.data_type, tff.CLIENTS),
    )
    def trained_metrics_of_clients(state, memory, batches, train_batches):
      round_num = tff.federated_broadcast(state.client_work)
      state = tff.federated_broadcast(state)
      own = tff.federated_map(process.get_client_model_weights, (state, memory))
      own = tff.federated_map(trained, (round_num, own, train_batches))
      return tff.federated_map(metrics_on, (own, batches))

  def evaluate(state, read):
    memory = read(client_ids)
    found = metrics_of_clients(state, memory, datasets)
    losses = [float(metrics['loss']) for metrics in found]
    accuracies = [float(metrics['accuracy']) for metrics in found]
    means = (np.mean(losses), np.mean(accuracies), np.average(accuracies, weights=weights))
    result = collections.OrderedDict(zip(PERSONAL_METRICS, map(float, means), strict=True))
    if trained_metrics_of_clients is not None:
      batches = [train_dataset(c) for c in client_ids]
      found = trained_metrics_of_clients(state, memory, datasets, batches)
      result[TRAINED_ACCURACY] = float(np.mean([metrics['accuracy'] for metrics in found]))
    return result

  return evaluate
