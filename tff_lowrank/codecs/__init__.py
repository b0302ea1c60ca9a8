"""Compressors as pure functions over tensors, with their wire forms. Never imports tff."""

from tff_lowrank.codecs.codec import Codec as Codec
from tff_lowrank.codecs.codec import Encoded as Encoded
from tff_lowrank.codecs.identity import Identity as Identity
from tff_lowrank.codecs.look_back import LookBack as LookBack
