"""The methods that runs can train with, one record in each file.

A module of this package that has a `METHOD` is found by itself. A method of one's own is a
`Method` anywhere, named as `package.module:RECORD`.
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
