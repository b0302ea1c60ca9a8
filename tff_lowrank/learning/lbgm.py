"""LBGM: FedAvg whose clients reuse the last update that they sent in full."""

from typing import Any

import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank import codecs
from tff_lowrank.client_work import local_sgd
from tff_lowrank.client_work import schedule as schedule_lib
from tff_lowrank.learning import fed_avg
from tff_lowrank.learning.composition import process


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

  Each client compares its update x, block by block, with the look-back vector l: the last update
  that it sent in full. If `|x - rho l|^2 / |x|^2` is at most `threshold`, the client sends only
  the look-back coefficient `rho = <x, l> / |l|^2`; else it sends x, which becomes the new l. The
  server adds `rho l` or x. A new client sends x in full. A client that is not sampled keeps its
  l, however old.

  Args:
    model_fn: As in `process.build_process`.
    client_optimizer_fn: Runs the local steps.
    server_optimizer_fn: Applies the mean of the reconstructed updates as the gradient.
    threshold: In [0, 1]; 0 is exactly FedAvg.
    granularity: `'tensor'` decides for each weight and bias, `'model'` once for the whole model.
    vectors: The number of updates last sent in full that a client looks back at; 1 in the paper.
      The client and the server each keep as many models.
    predictive: Whether a client that does not recycle sends its coefficients and the residual of x
      through `inner`, rather than x; not in the paper. See `codecs.LookBack`.
    inner: A codec, or its text. Its decoded output then takes the place of the update x.
    **settings: `client_weighting`, `metrics_aggregator`, `downlink`, `initial_from_seed`
      and `seed`, as in
      `process.build_process`.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If the value of an argument is invalid.
  """
  recycled = codecs.Identity() if inner is None else codecs.resolve(inner)
  codec = codecs.LookBack(recycled, threshold, granularity, vectors, predictive)
  return fed_avg.build_compressed_fed_avg(
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
  """Builds LBGM without client state; see `aggregators.SharedLookBackFactory`.

  The arguments are those of `build_lbgm_fed_avg` that are there.
  """
  factory = aggregators.SharedLookBackFactory(threshold, granularity)
  return process.build_process(
    model_fn, client_optimizer_fn, server_optimizer_fn, model_aggregator=factory, **settings
  )
