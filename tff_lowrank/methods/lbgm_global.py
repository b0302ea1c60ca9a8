"""LBGM at the last changes of the global model, which clients that were there know."""

from tff_lowrank import learning
from tff_lowrank.methods import lbgm
from tff_lowrank.methods import method


def _build(parts: method.Parts) -> learning.ClientStatefulLearningProcess:
  arguments = parts.coded
  return learning.build_global_lbgm_fed_avg(
    inner=arguments.pop('codec'), **arguments, **parts.settings.arguments()
  )


METHOD = method.Method(
  name='lbgm_global',
  about='LBGM where all clients look back at the last changes of the global model.',
  source='After Azam et al., ICLR 2022',
  build=_build,
  settings=lbgm.SubspaceSettings,
  check=lbgm.check,
)
