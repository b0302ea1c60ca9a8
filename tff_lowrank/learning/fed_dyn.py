"""FedDyn: FedAvg whose clients correct their gradients by a memory, and the server its model."""

import collections
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank import checks
from tff_lowrank import codecs
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.client_work import corrections
from tff_lowrank.client_work import local_sgd
from tff_lowrank.client_work import schedule as schedule_lib
from tff_lowrank.client_work import training as training_lib
from tff_lowrank.learning.composition import process
from tff_lowrank.learning.composition import server_correction
from tff_lowrank.learning.composition import work as work_lib


def build_fed_dyn(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  server_optimizer_fn: tff.learning.optimizers.Optimizer | None = None,
  *,
  num_clients: int,
  alpha: float = 0.1,
  codec: codecs.Codec | str | None = None,
  seed: int = 0,
  client_weighting: tff.learning.ClientWeighting = tff.learning.ClientWeighting.NUM_EXAMPLES,
  metrics_aggregator: Callable[..., tff.Computation] | None = None,
) -> process.ClientStatefulLearningProcess:
  """Builds FedDyn (Acar et al., ICLR 2021, https://arxiv.org/abs/2111.04263, Algorithm 1).

  Clients minimise their loss minus `<g_k, w>` plus `alpha / 2 |w - w0|^2`. After training, the
  client state g_k becomes `g_k - alpha (w - w0)`. The server keeps `h / alpha`. Each round it
  adds to it the mean update times the fraction of all clients that are in the mean, and subtracts
  the sum from the mean model: with SGD of rate 1 the model is `mean(w) - h / alpha`. The messages
  are those of FedAvg.

  Args:
    model_fn: As in `process.build_process`.
    client_optimizer_fn: Runs the local steps.
    server_optimizer_fn: Applies the mean of the decoded updates plus `h / alpha` as the gradient;
      SGD with rate 1 if None, as in the paper.
    num_clients: m, the number of all clients, sampled or not.
    alpha: At least 0; 0 corrects nothing and is exactly FedAvg. (This is not the limit for small
      alpha: `h / alpha` does not go to 0 with alpha.)
    codec: As in `build_fed_prox`, but not one that excludes whole clients from a round.
    seed: As in `build_fed_prox`.
    client_weighting: As in `process.build_process`; uniform in the paper.
    metrics_aggregator: As in `process.build_process`.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If the value of an argument is invalid.
  """
  checks.check_in_range('alpha', alpha, 0, float(np.finfo(np.float32).max))
  server_correction.check_counts_clients('FedDyn', codec, num_clients)
  factory = aggregators.ClientStatefulCodedMeanFactory(
    codecs.Identity() if codec is None else codec, seed=seed
  )
  server_optimizer = process.checked_server_optimizer(server_optimizer_fn)
  training = training_lib.build_training(
    model_fn, client_optimizer_fn, client_weighting, metrics_aggregator
  )
  weights_type = training.weights_type
  spec = tff.types.type_to_tf_tensor_specs(weights_type)
  initialize_client = work_lib.build_zero_memory('gradient', weights_type)

  def work(training, memory, weights, dataset):
    done = corrections.train_dynamic(training, alpha, memory['gradient'], weights, dataset)
    learnt = collections.OrderedDict(gradient=done.memory)
    return work_lib.Worked(learnt, done.result, ledger.dense_price(spec), done.metrics, memory)

  def advance(correction, mean, share):
    mean = tuple(tf.nest.flatten(mean))
    if not alpha:
      return correction, mean
    correction = tf.nest.map_structure(
      lambda h, u: h + structures.scale(share, u), correction, mean
    )
    return correction, tf.nest.map_structure(tf.add, mean, correction)

  return process.compose(
    process.build_initial_model_weights(model_fn),
    work_lib.build_work(
      training, initialize_client, weights_type, work, lambda weights: weights.trainable
    ),
    server_correction.counting(factory.create(weights_type.trainable, tff.TensorType(np.float32))),
    server_correction.build_finalizer(
      server_optimizer, weights_type, weights_type.trainable, num_clients, advance
    ),
  )
