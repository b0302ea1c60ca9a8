"""FedProx: local training with a proximal term towards the received model."""

import dataclasses

from tff_lowrank import learning
from tff_lowrank import settings
from tff_lowrank.methods import method


@dataclasses.dataclass(frozen=True)
class FedProxSettings(settings.Settings):
  """The weight of the proximal term."""

  fed_prox_mu: float = settings.field(
    0.1, 'Weight of the proximal term towards the received model; 0 is FedAvg.', at_least=0
  )


def _build(parts: method.Parts) -> learning.ClientStatefulLearningProcess:
  return learning.build_fed_prox(**parts.coded, mu=parts.settings.fed_prox_mu)


METHOD = method.Method(
  name='fed_prox',
  about='FedAvg with a proximal term that keeps clients close to the received model.',
  source='Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020',
  build=_build,
  settings=FedProxSettings,
)
