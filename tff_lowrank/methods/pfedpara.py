"""pFedPara: of each kernel's two low-rank factors, one is shared and one is personal."""

from tff_lowrank import layers
from tff_lowrank import learning
from tff_lowrank.methods import method


def _build(parts: method.Parts) -> learning.ClientStatefulLearningProcess:
  return method.build_personal(parts, layers.personal_mask(parts.keras_model_fn()))


METHOD = method.Method(
  name='pfedpara',
  about="Of each kernel's two low-rank factors, one is shared and one is personal.",
  source='Hyeon-Woo et al., FedPara, ICLR 2022, arXiv 2108.06098',
  build=_build,
  model_family='pfedpara',
  is_personal=True,
)
