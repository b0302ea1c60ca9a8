"""The training methods, one record per file.

A module of this package with a `METHOD` is found automatically. Your own method is a `Method` in
any module, given as `package.module:RECORD`.
"""

from tff_lowrank.methods.method import Choice as Choice
from tff_lowrank.methods.method import Method as Method
from tff_lowrank.methods.method import Parts as Parts
from tff_lowrank.methods.registry import BASELINE as BASELINE
from tff_lowrank.methods.registry import METHODS as METHODS
from tff_lowrank.methods.registry import find as find
from tff_lowrank.methods.registry import owners as owners

__all__ = [
  'BASELINE',
  'METHODS',
  'Choice',
  'Method',
  'Parts',
  'find',
  'owners',
]
