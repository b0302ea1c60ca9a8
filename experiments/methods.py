"""From a `RunSpec` to the learning process it names."""

from collections.abc import Callable, Mapping

import tensorflow_federated as tff

from experiments import specs
from tff_lowrank import codecs
from tff_lowrank import learning

Process = learning.ClientStatefulLearningProcess


def _optimizer(
  name: str, learning_rate: float, momentum: float = 0.0
) -> tff.learning.optimizers.Optimizer:
  if name == 'sgd':
    # TFF's momentum-free SGD keeps no buffer.
    return tff.learning.optimizers.build_sgdm(learning_rate, momentum=momentum or None)
  builders = dict(
    adam=tff.learning.optimizers.build_adam,
    adagrad=tff.learning.optimizers.build_adagrad,
    yogi=tff.learning.optimizers.build_yogi,
  )
  return builders[name](learning_rate)


def _lbgm(spec: specs.RunSpec) -> dict[str, object]:
  return dict(threshold=spec.lbgm_threshold, granularity=spec.lbgm_granularity)


def _uplink(spec: specs.RunSpec) -> codecs.Codec:
  return codecs.parse(spec.uplink)


def _downlink(spec: specs.RunSpec) -> dict[str, object]:
  return dict(downlink=codecs.parse(spec.downlink), seed=spec.seed)


def _apf(spec: specs.RunSpec) -> dict[str, object]:
  return dict(
    freezing_settings=spec.freezing_settings(),
    mask_policy=spec.apf_mask_policy,
    codec=_uplink(spec),
    seed=spec.seed,
  )


_BUILDERS: Mapping[str, Callable[..., Process]] = {
  'fed_avg': lambda spec, *common, **weighting: learning.build_compressed_fed_avg(
    *common, **weighting, codec=_uplink(spec), **_downlink(spec)
  ),
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
}


def build_process(spec: specs.RunSpec, model: tff.learning.models.FunctionalModel) -> Process:
  """The process of `spec.method` on `model`."""
  return _BUILDERS[spec.method](
    spec,
    model,
    _optimizer(spec.client_optimizer, spec.client_learning_rate),
    _optimizer(spec.server_optimizer, spec.server_learning_rate, spec.server_momentum),
    client_weighting=tff.learning.ClientWeighting[spec.client_weighting.upper()],
  )
