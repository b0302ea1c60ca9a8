"""LBGM without client state: all clients share one look-back vector, an earlier mean update."""

from tff_lowrank import learning
from tff_lowrank.methods import lbgm
from tff_lowrank.methods import method


def _build(parts: method.Parts) -> learning.ClientStatefulLearningProcess:
  arguments = parts.both_ways
  del arguments['codec']
  return learning.build_shared_lbgm_fed_avg(**arguments, **parts.settings.arguments())


METHOD = method.Method(
  name='lbgm_shared',
  about='LBGM with one look-back vector for all clients, an earlier mean update.',
  source='After Azam et al., ICLR 2022',
  build=_build,
  settings=lbgm.LbgmSettings,
  takes_uplink=False,
  takes_downlink=True,
)
