"""Adaptive Parameter Freezing: FedAvg that stops synchronising parameters that are stable."""

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
  checks.check_in_range('mu', mu, 0, np.finfo(np.float32).max)
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

  Every `check_every` rounds the server checks, for each active parameter, whether the changes
  of the global model cancel out. If so, the parameter is stable and is frozen for L checks. L
  grows by one each time the parameter is found stable and is halved when it is not. Frozen
  parameters are sent neither by clients nor by the server. Local training resets them to the
  global value after every step, and the server optimizer changes neither them nor their slots.

  The client state is the last model version that the client received. It decides the downlink:
  the values that changed since then, and what the client needs to know the mask (see
  `mask_policy`). The uplink is the active values. See `freezing.synchronisation.downlink_price`.

  Args:
    model_fn: As in `process.build_process`.
    client_optimizer_fn: Runs the local steps; its state starts afresh in each round.
    server_optimizer_fn: Applies the mean update as the gradient; SGD with rate 1 if None.
    freezing_settings: How parameters are frozen; `freezing.Settings()` if None. With a stability
      threshold of 0 the model and the bytes are exactly those of FedAvg.
    mask_policy: `'server'` sends the mask after each check: at most one bit per parameter.
      `'derived'` lets clients run the checks themselves, as in the paper. This is free for a
      client that takes part in every round; one that missed a check downloads four more numbers
      per parameter.
    **settings: `client_weighting` and `metrics_aggregator`, as in `process.build_process`;
      `mean_factory`, which averages the updates, `tff.aggregators.MeanFactory()` if None; `codec`,
      which encodes the active coordinates of the updates, and the `seed` of its randomness;
      `mu`, the weight of FedProx's proximal term (see `build_fed_prox`), 0 for none.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If the value of an argument is invalid.
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
  """Builds partial synchronisation, the first baseline of the APF paper (its "strawman").

  A parameter that is found stable is never synchronised again, but every client keeps training
  its own copy, which is part of its client state. On non-IID data the copies drift apart. The
  global model keeps the last synchronised value. If synchronisation of a parameter stopped in a
  round that a client missed, the client starts from the global value.

  The arguments are those of `build_apf_fed_avg`, except that `control` must be `'permanent'`:
  `freezing.Settings(control='permanent')` if `freezing_settings` is None.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If the value of an argument is invalid.
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
