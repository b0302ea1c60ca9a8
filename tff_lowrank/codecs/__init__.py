"""Compressors as pure functions of tensors, with their wire formats. They do not import TFF."""

from tff_lowrank.codecs.codec import GRANULARITIES as GRANULARITIES
from tff_lowrank.codecs.codec import Codec as Codec
from tff_lowrank.codecs.codec import Encoded as Encoded
from tff_lowrank.codecs.codec import Reference as Reference
from tff_lowrank.codecs.codec import Traits as Traits
from tff_lowrank.codecs.drive import DRIVE as DRIVE
from tff_lowrank.codecs.ef21 import EF21 as EF21
from tff_lowrank.codecs.error_feedback import ErrorFeedback as ErrorFeedback
from tff_lowrank.codecs.filters import CMFL as CMFL
from tff_lowrank.codecs.filters import Gaia as Gaia
from tff_lowrank.codecs.grammar import parse as parse
from tff_lowrank.codecs.grammar import resolve as resolve
from tff_lowrank.codecs.identity import Identity as Identity
from tff_lowrank.codecs.look_back import LookBack as LookBack
from tff_lowrank.codecs.low_rank import Atomo as Atomo
from tff_lowrank.codecs.low_rank import PowerSGD as PowerSGD
from tff_lowrank.codecs.low_rank import TruncatedSVD as TruncatedSVD
from tff_lowrank.codecs.quantize import QSGD as QSGD
from tff_lowrank.codecs.quantize import Float16 as Float16
from tff_lowrank.codecs.quantize import TernGrad as TernGrad
from tff_lowrank.codecs.sign_sgd import SignSGD as SignSGD
from tff_lowrank.codecs.sparse_ternary import SparseTernary as SparseTernary
from tff_lowrank.codecs.top_k import RandomK as RandomK
from tff_lowrank.codecs.top_k import TopK as TopK

__all__ = [
  'CMFL',
  'DRIVE',
  'EF21',
  'GRANULARITIES',
  'QSGD',
  'Atomo',
  'Codec',
  'Encoded',
  'ErrorFeedback',
  'Float16',
  'Gaia',
  'Identity',
  'LookBack',
  'PowerSGD',
  'RandomK',
  'Reference',
  'SignSGD',
  'SparseTernary',
  'TernGrad',
  'TopK',
  'Traits',
  'TruncatedSVD',
  'parse',
  'resolve',
]
