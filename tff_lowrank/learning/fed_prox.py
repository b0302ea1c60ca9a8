"""FedProx: FedAvg whose clients are pulled to the model that they received."""

from collections.abc import Callable

import numpy as np
import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank import checks
from tff_lowrank import codecs
from tff_lowrank.client_work import corrections
from tff_lowrank.client_work import local_sgd
from tff_lowrank.client_work import schedule as schedule_lib
from tff_lowrank.client_work import training as training_lib
from tff_lowrank.learning.composition import finalizer as finalizer_lib
from tff_lowrank.learning.composition import process
from tff_lowrank.learning.composition import work as work_lib


def build_fed_prox(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  server_optimizer_fn: tff.learning.optimizers.Optimizer | None = None,
  *,
  mu: float = 0.1,
  codec: codecs.Codec | str | None = None,
  seed: int = 0,
  client_weighting: tff.learning.ClientWeighting = tff.learning.ClientWeighting.NUM_EXAMPLES,
  metrics_aggregator: Callable[..., tff.Computation] | None = None,
) -> process.ClientStatefulLearningProcess:
  """Builds FedProx (Li et al., MLSys 2020, https://arxiv.org/abs/1812.06127).

  Clients minimise their loss plus `mu / 2 |w - w0|^2`, with w0 the model that they received.
  The messages are those of FedAvg.

  Args:
    model_fn: As in `process.build_process`.
    client_optimizer_fn: Runs the local steps.
    server_optimizer_fn: Applies the mean of the decoded updates as the gradient.
    mu: At least 0; 0 is exactly FedAvg.
    codec: Encodes the updates, a codec or its text; `codecs.Identity()` if None.
    seed: Seeds, together with the round number, all randomness in the codec.
    client_weighting: As in `process.build_process`.
    metrics_aggregator: As in `process.build_process`.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If the value of an argument is invalid.
  """
  checks.check_in_range('mu', mu, 0, float(np.finfo(np.float32).max))
  factory = aggregators.ClientStatefulCodedMeanFactory(
    codecs.Identity() if codec is None else codec, seed=seed
  )
  server_optimizer = process.checked_server_optimizer(server_optimizer_fn)
  training = corrections.proximal(
    training_lib.build_training(
      model_fn, client_optimizer_fn, client_weighting, metrics_aggregator
    ),
    mu,
  )
  weights_type = training.weights_type

  def train(training, weights, dataset):
    return training.train(weights, None, dataset)

  return process.compose(
    process.build_initial_model_weights(model_fn),
    work_lib.build_memoryless_work(training, train),
    factory.create(weights_type.trainable, tff.TensorType(np.float32)),
    finalizer_lib.build_finalizer(server_optimizer, weights_type),
  )
