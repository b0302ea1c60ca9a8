"""Local training: what a client does in a round."""

from tff_lowrank.client_work.local_sgd import build_local_sgd as build_local_sgd
from tff_lowrank.client_work.personal import last_layer_mask as last_layer_mask
from tff_lowrank.client_work.schedule import ClientOptimizer as ClientOptimizer
from tff_lowrank.client_work.schedule import ClientRates as ClientRates
from tff_lowrank.client_work.schedule import RoundSchedule as RoundSchedule
from tff_lowrank.client_work.schedule import exponential_decay as exponential_decay
from tff_lowrank.client_work.schedule import with_rate as with_rate

__all__ = [
  'ClientOptimizer',
  'ClientRates',
  'RoundSchedule',
  'build_local_sgd',
  'exponential_decay',
  'last_layer_mask',
  'with_rate',
]
