"""FedDyn: each client's loss has a dynamic regulariser, updated from its own gradients."""

import dataclasses

from tff_lowrank import learning
from tff_lowrank import settings
from tff_lowrank.methods import method


@dataclasses.dataclass(frozen=True)
class FedDynSettings(settings.Settings):
  """The strength of the regulariser."""

  fed_dyn_alpha: float = settings.field(
    0.1, "Strength of FedDyn's regulariser; 0 is FedAvg.", at_least=0
  )


def _build(parts: method.Parts) -> learning.ClientStatefulLearningProcess:
  return learning.build_fed_dyn(
    **parts.coded, num_clients=parts.num_clients, alpha=parts.settings.fed_dyn_alpha
  )


METHOD = method.Method(
  name='fed_dyn',
  about='A dynamic regulariser aligns the optimum of each client with the global optimum.',
  source='Acar et al., Federated Learning Based on Dynamic Regularization, ICLR 2021',
  build=_build,
  settings=FedDynSettings,
  check=method.check_takes_all_clients,
)
