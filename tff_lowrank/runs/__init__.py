"""Training runs, and their folders, which record everything needed to repeat them."""

from tff_lowrank.runs.comparison import Comparison as Comparison
from tff_lowrank.runs.run import Run as Run
from tff_lowrank.runs.run import compare as compare
from tff_lowrank.runs.run import train as train
from tff_lowrank.runs.saving import Saving as Saving
from tff_lowrank.runs.spec import RunSpec as RunSpec

__all__ = [
  'Comparison',
  'Run',
  'RunSpec',
  'Saving',
  'compare',
  'train',
]
