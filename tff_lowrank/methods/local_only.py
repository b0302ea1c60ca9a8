"""Each client trains alone, and nothing is sent: a baseline without federated learning."""

from tff_lowrank import learning
from tff_lowrank.methods import method


def _build(parts: method.Parts) -> learning.ClientStatefulLearningProcess:
  personal = [True] * len(parts.keras_model_fn().trainable_variables)
  return learning.build_personal_fed_avg(**parts.coded, personal=personal)


METHOD = method.Method(
  name='local_only',
  about='Each client trains alone, from the same initial model, and sends nothing.',
  source='A baseline of FedPara (ICLR 2022)',
  build=_build,
  takes_uplink=False,
  is_personal=True,
)
