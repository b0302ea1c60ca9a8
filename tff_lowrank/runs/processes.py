"""Builds the learning process of a `RunSpec`."""

from collections.abc import Callable

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import client_work
from tff_lowrank import learning
from tff_lowrank import methods
from tff_lowrank.runs import spec as spec_lib

# Adam's and Yogi's beta_2 at the server, as in Adaptive Federated Optimization (Reddi et al., ICLR
# 2021) and FedPara's paper. The clients use TFF's default, 0.999.
_SERVER_BETA_2 = 0.99


def _optimizer(
  name: str, learning_rate: float, momentum: float = 0.0, **adaptive: float
) -> tff.learning.optimizers.Optimizer:
  if name == 'sgd':
    # Without momentum, TFF's SGD has no momentum buffer.
    return tff.learning.optimizers.build_sgdm(learning_rate, momentum=momentum or None)
  builders = dict(
    adam=tff.learning.optimizers.build_adam,
    adagrad=tff.learning.optimizers.build_adagrad,
    yogi=tff.learning.optimizers.build_yogi,
  )
  return builders[name](learning_rate, **adaptive)


def build_client_optimizer(spec: spec_lib.RunSpec) -> client_work.ClientOptimizer:
  """The optimizer of the clients' local steps."""
  rate = spec.client_learning_rate
  if callable(rate) or spec.has_client_rates:
    rate = 1.0
  optimizer = _optimizer(spec.client_optimizer, rate)
  if spec.client_rate_decay != 1:
    optimizer = client_work.exponential_decay(optimizer, spec.client_rate_decay)
  return client_work.ClientRates(optimizer) if spec.has_client_rates else optimizer


def build_server_optimizer(spec: spec_lib.RunSpec) -> tff.learning.optimizers.Optimizer:
  """The optimizer of the server, which applies the mean update as the gradient."""
  adaptive = {}
  if spec.server_optimizer in ('adam', 'yogi'):
    adaptive['beta_2'] = _SERVER_BETA_2
  if spec.server_epsilon is not None:
    adaptive['epsilon'] = spec.server_epsilon
  return _optimizer(
    spec.server_optimizer, spec.server_learning_rate, spec.server_momentum, **adaptive
  )


def build_parts(
  spec: spec_lib.RunSpec,
  model: tff.learning.models.FunctionalModel,
  keras_model_fn: Callable[[], tf.keras.Model],
  num_clients: int,
) -> methods.Parts:
  """The parts of the process of `spec`; the arguments are those of `build_process`."""
  return methods.Parts(
    choice=spec.choice,
    model=model,
    keras_model_fn=keras_model_fn,
    client_optimizer=build_client_optimizer(spec),
    server_optimizer=build_server_optimizer(spec),
    client_weighting=tff.learning.ClientWeighting[spec.client_weighting.upper()],
    num_clients=num_clients,
  )


def build_process(
  spec: spec_lib.RunSpec,
  model: tff.learning.models.FunctionalModel,
  keras_model_fn: Callable[[], tf.keras.Model],
  num_clients: int,
) -> learning.ClientStatefulLearningProcess:
  """The learning process of `spec.method` on `model`, which is made from `keras_model_fn`.

  num_clients: the number of all clients, sampled or not.

  Raises ValueError if the method has no effect on the model.
  """
  return spec.record.build(build_parts(spec, model, keras_model_fn, num_clients))
