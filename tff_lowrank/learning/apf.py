"""Adaptive Parameter Freezing: FedAvg that stops synchronising what has settled."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow_federated as tff

from tff_lowrank import checks
from tff_lowrank import codecs
from tff_lowrank import freezing
from tff_lowrank.aggregators import coded_mean
from tff_lowrank.aggregators import freezing as freezing_aggregators
from tff_lowrank.client_work import frozen as frozen_work
from tff_lowrank.client_work import local_sgd
from tff_lowrank.client_work import regularized as regularized_work
from tff_lowrank.client_work import schedule as schedule_lib
from tff_lowrank.freezing import synchronisation
from tff_lowrank.learning import partial
from tff_lowrank.learning import process


def _build(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  server_optimizer_fn: tff.learning.optimizers.Optimizer | None,
  settings: freezing.Settings,
  mask_policy: str,
  keeps_own: bool,
  client_weighting: tff.learning.ClientWeighting = tff.learning.ClientWeighting.NUM_EXAMPLES,
  mean_factory: tff.aggregators.WeightedAggregationFactory | None = None,
  metrics_aggregator: Callable[..., tff.Computation] | None = None,
  codec: codecs.Codec | str | None = None,
  seed: int = 0,
  mu: float = 0.0,
) -> process.ClientStatefulLearningProcess:
  """The process behind both builders."""
  checks.check_one_of('mask_policy', mask_policy, synchronisation.MASK_POLICIES)
  mean_factory = coded_mean.checked_mean_factory(mean_factory)
  server_optimizer = process.checked_server_optimizer(server_optimizer_fn)
  checks.check_in_range('mu', mu, 0, float(np.finfo(np.float32).max))
  training = frozen_work.build_training(
    model_fn, client_optimizer_fn, client_weighting, metrics_aggregator
  )
  if mu:
    training = regularized_work.proximal(training, mu)
  initial_model_weights = process.build_initial_model_weights(model_fn)
  weights_type = initial_model_weights.type_signature.result
  trainable_type = weights_type.trainable
  finalizer = partial.build_finalizer(server_optimizer, weights_type, settings)
  finalizer_state_type = finalizer.initialize.type_signature.result.member
  outgoing = partial.build_outgoing(finalizer_state_type, weights_type, settings, keeps_own)
  work = partial.build_work(
    training, outgoing.type_signature.result, settings, mask_policy, keeps_own
  )
  types = (
    trainable_type,
    freezing_aggregators.mask_type(settings, trainable_type),
    tff.TensorType(np.float32),
  )
  codec = codecs.Identity() if codec is None else codecs.resolve(codec)
  if codec == codecs.Identity():
    aggregator = freezing_aggregators.create_partial_mean(mean_factory, *types)
  else:
    aggregator = freezing_aggregators.create_coded_partial_mean(codec, mean_factory, seed, *types)

  personalize = None
  if keeps_own:
    memory_type = work.initialize_client.type_signature.result
    personalize = partial.build_personalize(
      finalizer_state_type, memory_type, weights_type, settings
    )
  return process.compose(initial_model_weights, work, aggregator, finalizer, outgoing, personalize)


def build_apf_fed_avg(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  server_optimizer_fn: tff.learning.optimizers.Optimizer | None = None,
  *,
  freezing_settings: freezing.Settings | None = None,
  mask_policy: str = 'server',
  **settings: Any,
) -> process.ClientStatefulLearningProcess:
  """Builds APF (Chen et al., ICDCS 2021).

  Every `check_every` rounds the server checks, for each parameter that is active, whether the
  global model's changes cancel out. One that does is frozen for L checks, and L grows by one
  each time it is found stable and is halved when it is not. Frozen parameters are neither sent
  up nor down; in local training they are put back to the global value after every step, and
  the server optimizer leaves them and their slots alone.

  A client's memory is the version of the model it was sent last, for what it must be sent: the
  values that changed since, and, as `mask_policy` says, what tells the mask. The uplink is
  the active values. See `freezing.synchronisation.downlink_price`.

  Args:
    model_fn: As in `process.build_process`.
    client_optimizer_fn: Takes the local steps; a client starts each round with a fresh state.
    server_optimizer_fn: Takes the mean update as the gradient; SGD with rate 1 if None.
    freezing_settings: How parameters are frozen; `freezing.Settings()` if None. A stability
      threshold of 0 is FedAvg to the bit, model and bytes.
    mask_policy: `'server'` sends the mask after each check: at most one bit a parameter.
      `'derived'` lets clients run the checks themselves, as in the paper: free for a client
      that is always there, but one that missed a check fetches four more numbers a parameter.
    **settings: `client_weighting`, `metrics_aggregator`, both as in `process.build_process`;
      `mean_factory`, which averages the updates; `tff.aggregators.MeanFactory()` if None; `codec`,
      which codes the active coordinates of the updates, with the `seed` of all that is random
      in it; `mu`, of FedProx's pull on local training (`build_fed_prox`), 0 for none.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If an argument has an impossible value.
  """
  freezing_settings = freezing.Settings() if freezing_settings is None else freezing_settings
  checks.check_type('freezing_settings', freezing_settings, freezing.Settings)
  return _build(
    model_fn,
    client_optimizer_fn,
    server_optimizer_fn,
    freezing_settings,
    mask_policy,
    keeps_own=False,
    **settings,
  )


def build_partial_sync_fed_avg(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  server_optimizer_fn: tff.learning.optimizers.Optimizer | None = None,
  *,
  freezing_settings: freezing.Settings | None = None,
  mask_policy: str = 'server',
  **settings: Any,
) -> process.ClientStatefulLearningProcess:
  """Builds partial synchronisation, the first strawman of APF's paper.

  What is found stable is no longer synchronised, for good, but every client goes on training
  its own copy, which it remembers; on non-IID data the copies drift apart. The global model
  keeps the last synchronised value. A client takes the global value of a parameter that left
  the synchronisation while it was away.

  The arguments are those of `build_apf_fed_avg`, but that `control` must be `'permanent'`:
  `freezing.Settings(control='permanent')` if `freezing_settings` is None.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If an argument has an impossible value.
  """
  if freezing_settings is None:
    freezing_settings = freezing.Settings(control='permanent')
  checks.check_type('freezing_settings', freezing_settings, freezing.Settings)
  checks.check_one_of('freezing_settings.control', freezing_settings.control, ('permanent',))
  return _build(
    model_fn,
    client_optimizer_fn,
    server_optimizer_fn,
    freezing_settings,
    mask_policy,
    keeps_own=True,
    **settings,
  )
