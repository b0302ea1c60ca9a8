"""FedPer: the last layer is personal."""

from tff_lowrank import client_work
from tff_lowrank import learning
from tff_lowrank.methods import method


def _build(parts: method.Parts) -> learning.ClientStatefulLearningProcess:
  return method.build_personal(parts, client_work.last_layer_mask(parts.keras_model_fn()))


METHOD = method.Method(
  name='fed_per',
  about='All layers are shared except the last, which is personal.',
  source='Arivazhagan et al., Federated Learning with Personalization Layers, arXiv 1912.00818',
  build=_build,
  is_personal=True,
)
