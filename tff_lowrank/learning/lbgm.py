"""LBGM: FedAvg whose clients recycle the last update they sent in full."""

from typing import Any

import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank import codecs
from tff_lowrank.client_work import local_sgd
from tff_lowrank.client_work import schedule as schedule_lib
from tff_lowrank.learning import compressed
from tff_lowrank.learning import process


def build_lbgm_fed_avg(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  server_optimizer_fn: tff.learning.optimizers.Optimizer | None = None,
  *,
  threshold: float = 0.2,
  granularity: str = 'tensor',
  vectors: int = 1,
  predictive: bool = False,
  inner: codecs.Codec | str | None = None,
  **settings: Any,
) -> process.ClientStatefulLearningProcess:
  """Builds LBGM (Azam et al., ICLR 2022, https://openreview.net/forum?id=B7ZbqNLDn-_).

  Each client compares its update x, block by block, with the look-back vector l, the update
  that it last sent in full, and sends `rho = <x, l> / |l|^2` if `|x - rho l|^2 / |x|^2` is at
  most `threshold`; else it sends x, which becomes l. The server adds `rho l` or x. A client
  that is seen for the first time sends in full; one that is not sampled keeps l however old.

  Args:
    model_fn: As in `process.build_process`, which see also for other `settings`
      (`client_weighting`, `metrics_aggregator`, `downlink`), and `seed`.
    client_optimizer_fn: Takes the local steps.
    server_optimizer_fn: Takes the mean of the reconstructed updates as the gradient.
    threshold: In [0, 1]; 0 is FedAvg to the bit.
    granularity: `'tensor'` decides for each weight and bias, `'model'` once for all.
    vectors: How many of the updates last sent in full a client looks back at, 1 in the paper. It
      and the server keep as many models.
    predictive: Whether a client that does not recycle sends its coefficients and what they leave
      of x through `inner`, rather than x; not in the paper. See `codecs.LookBack`.
    inner: A codec, or its text, whose decoded output is recycled instead of the update itself.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If an argument has an impossible value.
  """
  inner = codecs.Identity() if inner is None else inner
  codec = codecs.LookBack(inner, threshold, granularity, vectors, predictive)
  return compressed.build_compressed_fed_avg(
    model_fn, client_optimizer_fn, server_optimizer_fn, codec=codec, **settings
  )


def build_shared_lbgm_fed_avg(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  server_optimizer_fn: tff.learning.optimizers.Optimizer | None = None,
  *,
  threshold: float = 0.2,
  granularity: str = 'tensor',
  **settings: Any,
) -> process.ClientStatefulLearningProcess:
  """Builds LBGM without client memory; see `aggregators.SharedLookBackFactory`.

  The arguments are those of `build_lbgm_fed_avg` that are there.
  """
  factory = aggregators.SharedLookBackFactory(threshold, granularity)
  return process.build_process(
    model_fn, client_optimizer_fn, server_optimizer_fn, model_aggregator=factory, **settings
  )
