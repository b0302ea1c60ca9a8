"""FedProx: local training is pulled towards the model that was received."""

import dataclasses

from tff_lowrank import learning
from tff_lowrank import settings
from tff_lowrank.methods import method


@dataclasses.dataclass(frozen=True)
class FedProxSettings(settings.Settings):
  """How strong the pull is."""

  fed_prox_mu: float = settings.field(
    0.1, 'Pull of the model received on local training.', at_least=0
  )


def _build(parts: method.Parts) -> learning.ClientStatefulLearningProcess:
  return learning.build_fed_prox(**parts.coded, mu=parts.settings.fed_prox_mu)


METHOD = method.Method(
  name='fed_prox',
  about='FedAvg whose clients are pulled towards the model that they received.',
  source='Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020',
  build=_build,
  settings=FedProxSettings,
)
