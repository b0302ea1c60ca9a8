"""From a `RunSpec` to the learning process it names."""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from experiments import specs
from tff_lowrank import client_work
from tff_lowrank import codecs
from tff_lowrank import layers
from tff_lowrank import learning

Process = learning.ClientStatefulLearningProcess

# Of Adam and Yogi at the server: Adaptive Federated Optimization (Reddi et al., ICLR 2021), and
# FedPara's paper. At the clients TFF's default, 0.999.
_SERVER_BETA_2 = 0.99


def _optimizer(
  name: str, learning_rate: float, momentum: float = 0.0, **adaptive: float
) -> tff.learning.optimizers.Optimizer:
  if name == 'sgd':
    # TFF's momentum-free SGD keeps no buffer.
    return tff.learning.optimizers.build_sgdm(learning_rate, momentum=momentum or None)
  builders = dict(
    adam=tff.learning.optimizers.build_adam,
    adagrad=tff.learning.optimizers.build_adagrad,
    yogi=tff.learning.optimizers.build_yogi,
  )
  return builders[name](learning_rate, **adaptive)


def build_client_optimizer(spec: specs.RunSpec) -> client_work.ClientOptimizer:
  """Of the clients' local steps."""
  optimizer = _optimizer(spec.client_optimizer, spec.client_learning_rate)
  if spec.client_rate_decay == 1:
    return optimizer
  return client_work.exponential_decay(optimizer, spec.client_rate_decay)


def build_server_optimizer(spec: specs.RunSpec) -> tff.learning.optimizers.Optimizer:
  """Of the server, which takes the mean update as the gradient."""
  adaptive = {}
  if spec.server_optimizer in ('adam', 'yogi'):
    adaptive['beta_2'] = _SERVER_BETA_2
  if spec.server_epsilon is not None:
    adaptive['epsilon'] = spec.server_epsilon
  return _optimizer(
    spec.server_optimizer, spec.server_learning_rate, spec.server_momentum, **adaptive
  )


def _lbgm(spec: specs.RunSpec) -> dict[str, object]:
  return dict(threshold=spec.lbgm_threshold, granularity=spec.lbgm_granularity)


def _uplink(spec: specs.RunSpec) -> codecs.Codec:
  return codecs.parse(spec.uplink)


def _downlink(spec: specs.RunSpec) -> dict[str, object]:
  return dict(downlink=codecs.parse(spec.downlink), seed=spec.seed)


def _coded(spec: specs.RunSpec) -> dict[str, object]:
  return dict(codec=_uplink(spec), seed=spec.seed)


def _apf(spec: specs.RunSpec) -> dict[str, object]:
  return dict(
    freezing_settings=spec.freezing_settings(),
    mask_policy=spec.apf_mask_policy,
    **_coded(spec),
  )


# Which of a model's trainable weights are personal.
_MASKS: Mapping[str, Callable[[tf.keras.Model], list[bool]]] = {
  'pfedpara': layers.personal_mask,
  'fed_per': client_work.last_layer_mask,
  'local_only': lambda model: [True] * len(model.trainable_variables),
}


def _fed_avg(spec: specs.RunSpec, *common: Any, **weighting: Any) -> Process:
  return learning.build_compressed_fed_avg(
    *common, **weighting, codec=_uplink(spec), **_downlink(spec)
  )


_BUILDERS: Mapping[str, Callable[..., Process]] = {
  'fed_avg': _fed_avg,
  'fedpara': _fed_avg,
  'lbgm': lambda spec, *common, **weighting: learning.build_lbgm_fed_avg(
    *common, **weighting, inner=_uplink(spec), **_lbgm(spec), **_downlink(spec)
  ),
  'lbgm_shared': lambda spec, *common, **weighting: learning.build_shared_lbgm_fed_avg(
    *common, **weighting, **_lbgm(spec), **_downlink(spec)
  ),
  'apf': lambda spec, *common, **weighting: learning.build_apf_fed_avg(
    *common, **weighting, **_apf(spec)
  ),
  'apf_partial_sync': lambda spec, *common, **weighting: learning.build_partial_sync_fed_avg(
    *common, **weighting, **_apf(spec)
  ),
  'fed_prox': lambda spec, *common, **weighting: learning.build_fed_prox(
    *common, **weighting, **_coded(spec), mu=spec.fed_prox_mu
  ),
  'scaffold': lambda spec, *common, num_clients, **weighting: learning.build_scaffold(
    *common, **weighting, **_coded(spec), num_clients=num_clients
  ),
  'fed_dyn': lambda spec, *common, num_clients, **weighting: learning.build_fed_dyn(
    *common, **weighting, **_coded(spec), num_clients=num_clients, alpha=spec.fed_dyn_alpha
  ),
}


def _build_personal(
  spec: specs.RunSpec, personal: list[bool], *common: Any, **weighting: Any
) -> Process:
  if not any(personal):
    raise ValueError(
      f'--method={spec.method} finds no personal weights in the model of --task={spec.task}: none '
      'of its layers gets smaller by factors.'
    )
  if all(personal) and spec.method != 'local_only':
    raise ValueError(
      f'--method={spec.method} finds no shared weights in the model of --task={spec.task}; that is '
      '--method=local_only.'
    )
  return learning.build_personal_fed_avg(*common, **weighting, **_coded(spec), personal=personal)


def build_process(
  spec: specs.RunSpec,
  model: tff.learning.models.FunctionalModel,
  keras_model_fn: Callable[[], tf.keras.Model],
  num_clients: int,
) -> Process:
  """The process of `spec.method` on `model`, made of what `keras_model_fn` builds.

  num_clients: of all clients, sampled or not.

  Raises ValueError if the method has no effect on the model.
  """
  if spec.method in specs.PERSONAL_METHODS:
    build = functools.partial(_build_personal, spec, _MASKS[spec.method](keras_model_fn()))
  else:
    build = functools.partial(_BUILDERS[spec.method], spec)
  if spec.method in ('scaffold', 'fed_dyn'):
    build = functools.partial(build, num_clients=num_clients)
  return build(
    model,
    build_client_optimizer(spec),
    build_server_optimizer(spec),
    client_weighting=tff.learning.ClientWeighting[spec.client_weighting.upper()],
  )
