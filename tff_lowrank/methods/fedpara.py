"""FedAvg on models with FedPara layers."""

from tff_lowrank import learning
from tff_lowrank.methods import method


def _build(parts: method.Parts) -> learning.ClientStatefulLearningProcess:
  return learning.build_compressed_fed_avg(**parts.both_ways)


METHOD = method.Method(
  name='fedpara',
  about='FedAvg with kernels that are Hadamard products of two low-rank matrices.',
  source='Hyeon-Woo et al., FedPara, ICLR 2022, arXiv 2108.06098',
  build=_build,
  takes_downlink=True,
  model_family='fedpara',
  tried=('fedpara_gamma', (0.1, 0.3, 0.5, 0.7)),
)
