"""FedAvg whose uplink goes through a codec."""

from typing import Any

import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank import codecs
from tff_lowrank.client_work import local_sgd
from tff_lowrank.client_work import schedule as schedule_lib
from tff_lowrank.learning import process


def build_compressed_fed_avg(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  server_optimizer_fn: tff.learning.optimizers.Optimizer | None = None,
  *,
  codec: codecs.Codec | str,
  seed: int = 0,
  **settings: Any,
) -> process.ClientStatefulLearningProcess:
  """Builds FedAvg in which each client's update is encoded by `codec` on its way up.

  Args:
    model_fn: As in `process.build_process`, which see also for other `settings`
      (`client_weighting`, `metrics_aggregator`, `downlink`).
    client_optimizer_fn: Takes the local steps.
    server_optimizer_fn: Takes the mean of the decoded updates as the gradient.
    codec: Any codec, or its text as `codecs.parse` takes it; its memory, if it has one, is the
      clients' memory.
    seed: Decides, with the round, all that is random in the codecs.

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
  """Builds FedAvg with its messages priced: `build_compressed_fed_avg` with `Identity`."""
  return build_compressed_fed_avg(
    model_fn, client_optimizer_fn, server_optimizer_fn, codec=codecs.Identity(), **settings
  )
