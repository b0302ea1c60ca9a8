"""FedAvg whose uplink is compressed by a codec."""

from typing import Any

import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank import codecs
from tff_lowrank.client_work import local_sgd
from tff_lowrank.client_work import schedule as schedule_lib
from tff_lowrank.learning.composition import process


def build_compressed_fed_avg(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  server_optimizer_fn: tff.learning.optimizers.Optimizer | None = None,
  *,
  codec: codecs.Codec | str,
  seed: int = 0,
  **settings: Any,
) -> process.ClientStatefulLearningProcess:
  """Builds FedAvg in which `codec` encodes the update that each client sends.

  Args:
    model_fn: As in `process.build_process`.
    client_optimizer_fn: Runs the local steps.
    server_optimizer_fn: Applies the mean of the decoded updates as the gradient.
    codec: Any codec, or its text for `codecs.parse`; if the codec has memory, that is the client
      state.
    seed: Seeds, together with the round number, all randomness in the codecs.
    **settings: `client_weighting`, `metrics_aggregator`, `downlink` and `initial_from_seed`, as in
      `process.build_process`.

  Raises:
    TypeError: If an argument is of the wrong type.
  """
  factory = aggregators.ClientStatefulCodedMeanFactory(codec, seed=seed)
  return process.build_process(
    model_fn,
    client_optimizer_fn,
    server_optimizer_fn,
    model_aggregator=factory,
    seed=seed,
    **settings,
  )


def build_fed_avg(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  server_optimizer_fn: tff.learning.optimizers.Optimizer | None = None,
  **settings: Any,
) -> process.ClientStatefulLearningProcess:
  """Builds FedAvg that reports its costs: `build_compressed_fed_avg` with `Identity`."""
  return build_compressed_fed_avg(
    model_fn, client_optimizer_fn, server_optimizer_fn, codec=codecs.Identity(), **settings
  )
