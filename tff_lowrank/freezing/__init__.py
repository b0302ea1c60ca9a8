"""Adaptive Parameter Freezing, computed on structures of tensors. Never imports tff.

Chen, Xu, Wang, Li, Li, Chen, Zhang: Communication-Efficient Federated Learning with Adaptive
Parameter Freezing, ICDCS 2021.

`freezer` has the state and its update in a round; `stability`, `control` and `aggressive` are its
parts.
"""

from tff_lowrank.freezing.freezer import State as State
from tff_lowrank.freezing.freezer import frozen_mask as frozen_mask
from tff_lowrank.freezing.freezer import hold as hold
from tff_lowrank.freezing.freezer import initial_state as initial_state
from tff_lowrank.freezing.freezer import measure as measure
from tff_lowrank.freezing.freezer import next_round as next_round
from tff_lowrank.freezing.settings import Settings as Settings

__all__ = [
  'Settings',
  'State',
  'frozen_mask',
  'hold',
  'initial_state',
  'measure',
  'next_round',
]
