"""LBGM: clients send a coefficient if the update is close to a multiple of an earlier one."""

from collections.abc import Sequence
import dataclasses

from tff_lowrank import codecs
from tff_lowrank import learning
from tff_lowrank import settings
from tff_lowrank.analysis import replay
from tff_lowrank.methods import method


@dataclasses.dataclass(frozen=True)
class LbgmSettings(settings.Settings):
  """Settings of LBGM."""

  lbgm_threshold: float = settings.field(
    0.2,
    'Largest look-back phase error at which only the look-back coefficient is sent.',
    at_least=0,
    at_most=1,
  )
  lbgm_granularity: str = settings.field(
    'tensor',
    'Whether each tensor or the whole model is sent as one block.',
    choices=codecs.GRANULARITIES,
  )

  def arguments(self) -> dict[str, object]:
    return dict(threshold=self.lbgm_threshold, granularity=self.lbgm_granularity)


@dataclasses.dataclass(frozen=True)
class SubspaceSettings(LbgmSettings):
  """And at how many vectors to look back."""

  lbgm_vectors: int = settings.field(
    1,
    'How many updates to look back at; 1 in the paper.',
    at_least=1,
    at_most=codecs.LookBack.MAX_VECTORS,
  )
  lbgm_predictive: bool = settings.field(
    False, 'Whether what is not recycled is sent as its difference from what would be.'
  )

  def arguments(self) -> dict[str, object]:
    return dict(super().arguments(), vectors=self.lbgm_vectors, predictive=self.lbgm_predictive)


def check(choice: method.Choice) -> None:
  """Raises ValueError if look-back does not go with the uplink's codec."""
  codecs.LookBack(choice.uplink, **choice.settings.arguments())


def _build(parts: method.Parts) -> learning.ClientStatefulLearningProcess:
  arguments = parts.both_ways
  return learning.build_lbgm_fed_avg(
    inner=arguments.pop('codec'), **arguments, **parts.settings.arguments()
  )


def _replay(choice: method.Choice, rounds: Sequence[replay.Round]) -> replay.Replayed:
  codec = codecs.LookBack(choice.uplink, **choice.settings.arguments())
  return replay.replay_codec(codec, rounds, choice.seed)


METHOD = method.Method(
  name='lbgm',
  about='Clients send one coefficient if the update is close to a multiple of the last full one.',
  source='Azam et al., Recycling Model Updates in Federated Learning, ICLR 2022',
  build=_build,
  settings=SubspaceSettings,
  takes_downlink=True,
  check=check,
  tried=('lbgm_threshold', (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)),
  replay=_replay,
)
