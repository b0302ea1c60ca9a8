"""APF: stable parameters are frozen, for periods controlled as in TCP."""

from collections.abc import Sequence
import dataclasses

from tff_lowrank import aggregators
from tff_lowrank import freezing
from tff_lowrank import learning
from tff_lowrank import settings
from tff_lowrank.analysis import replay
from tff_lowrank.freezing import aggressive
from tff_lowrank.freezing import control
from tff_lowrank.freezing import settings as freezing_settings
from tff_lowrank.freezing import stability
from tff_lowrank.freezing import synchronisation
from tff_lowrank.methods import method


@dataclasses.dataclass(frozen=True)
class FreezingSettings(settings.Settings):
  """Settings of the stability check and of what is frozen."""

  apf_stability_threshold: float = settings.field(
    0.05,
    'A parameter is stable if its effective perturbation is below this; 0 freezes none.',
    at_least=0,
  )
  apf_check_every: int = settings.field(1, 'Rounds between stability checks.', at_least=1)
  apf_aggressive: str = settings.field(
    'none', 'Additional random freezing.', choices=aggressive.VARIANTS
  )
  apf_ema_decay: float = settings.field(0.99, 'Decay of the moving averages.', at_least=0, below=1)
  apf_granularity: str = settings.field(
    'scalar', 'Unit of freezing.', choices=freezing_settings.GRANULARITIES
  )
  apf_zero_update: str = settings.field(
    'unstable', 'Whether a parameter that never changed is stable.', choices=stability.ZERO_UPDATES
  )
  apf_mask_policy: str = settings.field(
    'server',
    'Whether the server sends the mask, or clients derive it (for full participation).',
    choices=synchronisation.MASK_POLICIES,
  )

  def freezing(self, seed: int, how: str) -> freezing.Settings:
    """`how` is one of `freezing.control.CONTROLS`; raises ValueError if settings conflict."""
    return freezing.Settings(
      stability_threshold=self.apf_stability_threshold,
      check_every=self.apf_check_every,
      ema_decay=self.apf_ema_decay,
      control=how,
      aggressive=self.apf_aggressive,
      granularity=self.apf_granularity,
      zero_update=self.apf_zero_update,
      seed=seed,
    )


@dataclasses.dataclass(frozen=True)
class ApfSettings(FreezingSettings):
  """The same, and how long parameters stay frozen."""

  apf_control: str = settings.field(
    'aimd', 'How stability checks change the freezing period.', choices=control.CONTROLS
  )


def check(choice: method.Choice) -> None:
  """A `Method.check`: whether the codec works with freezing."""
  aggregators.check_codec_under_freezing(choice.uplink)


def _freezing(choice: method.Choice) -> freezing.Settings:
  return choice.settings.freezing(choice.seed, choice.settings.apf_control)


def _build(parts: method.Parts) -> learning.ClientStatefulLearningProcess:
  return learning.build_apf_fed_avg(
    **parts.coded,
    freezing_settings=_freezing(parts.choice),
    mask_policy=parts.settings.apf_mask_policy,
  )


def _replay(choice: method.Choice, rounds: Sequence[replay.Round]) -> replay.Replayed:
  return replay.replay_freezing(_freezing(choice), choice.settings.apf_mask_policy, rounds)


METHOD = method.Method(
  name='apf',
  about='Stable parameters are frozen and not sent, for periods controlled as in TCP.',
  source='Chen et al., Adaptive Parameter Freezing, ICDCS 2021',
  build=_build,
  settings=ApfSettings,
  check=check,
  freezing=_freezing,
  tried=('apf_stability_threshold', (0.02, 0.05, 0.1, 0.2, 0.4)),
  replay=_replay,
)
