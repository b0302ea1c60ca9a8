"""A baseline of APF's paper: stable parameters are never sent again; each client trains them."""

from tff_lowrank import freezing
from tff_lowrank import learning
from tff_lowrank.methods import apf
from tff_lowrank.methods import method


def _freezing(choice: method.Choice) -> freezing.Settings:
  return choice.settings.freezing(choice.seed, 'permanent')


def _build(parts: method.Parts) -> learning.ClientStatefulLearningProcess:
  return learning.build_partial_sync_fed_avg(
    **parts.coded,
    freezing_settings=_freezing(parts.choice),
    mask_policy=parts.settings.apf_mask_policy,
  )


METHOD = method.Method(
  name='apf_partial_sync',
  about='Stable parameters are never sent again; each client keeps training its own copy.',
  source='A baseline in Chen et al., Adaptive Parameter Freezing, ICDCS 2021',
  build=_build,
  settings=apf.FreezingSettings,
  check=apf.check,
  freezing=_freezing,
)
