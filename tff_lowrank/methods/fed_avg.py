"""FedAvg, with codecs for uplink and downlink."""

from collections.abc import Sequence

from tff_lowrank import learning
from tff_lowrank.analysis import replay
from tff_lowrank.methods import method


def _build(parts: method.Parts) -> learning.ClientStatefulLearningProcess:
  return learning.build_compressed_fed_avg(**parts.both_ways)


def _replay(choice: method.Choice, rounds: Sequence[replay.Round]) -> replay.Replayed:
  return replay.replay_codec(choice.uplink, rounds, choice.seed)


METHOD = method.Method(
  name='fed_avg',
  about='Clients train on their own examples and send the change of their model.',
  source='McMahan et al., AISTATS 2017, arXiv 1602.05629',
  build=_build,
  takes_downlink=True,
  is_baseline=True,
  tried=(
    'uplink',
    ('top_k(0.3)', 'top_k(0.1)', 'top_k(0.03)')
    + ('truncated_svd(4)', 'truncated_svd(2)', 'truncated_svd(1)'),
  ),
  replay=_replay,
)
