import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from tff_lowrank.codecs import bit_stream
from tff_lowrank.codecs import index_sets


def packed(n, indices, known=True):
  writer = bit_stream.BitWriter()
  index_sets.write(writer, n, np.array(indices, np.int64), known)
  return writer


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))),
       st.booleans())  # fmt: skip
def test_round_trip_price_and_cheapest_form(drawn, known):
  n, chosen = drawn
  indices = np.array(sorted(chosen), np.int32)
  k = len(indices)
  writer = packed(n, indices, known)
  count = k if known else np.int32(k)
  padded = np.concatenate([indices, np.full(n - k, n, np.int32)])
  found = index_sets.bits(n, indices if known else padded, count, known=known)
  assert int(found) == writer.num_bits
  reader = bit_stream.BitReader(writer.to_bytes())
  np.testing.assert_array_equal(index_sets.read(reader, n, k if known else None), indices)
  reader.finish()
  # Never above the forms of old: a bitmap or ceil(log2 n) bits an index.
  header = 1 + (0 if known else n.bit_length())
  assert writer.num_bits <= header + min(n, k * math.ceil(math.log2(n)) if n > 1 else 0)


def test_known_bits():
  # 3 of 1000 by fixed width: 30 bits. Rice: 9/13 * 1000 = 692, 692 // 3 = 230, so b = 7; gaps 9,
  # 89 and 799 give quotients 0, 0 and 6: 6 + 3 * 8 = 30. Not less, so fixed width: 1 + 30.
  assert packed(1000, [9, 99, 899]).num_bits == 31
  # Gaps 9, 89, 399: quotients 0, 0, 3. Rice: 3 + 24 = 27.
  assert packed(1000, [9, 99, 499]).num_bits == 28
  # 5 of 8: the bitmap, 8 bits, against 15 and 5 + 3 (b = 0: unary gaps 0, 0, 1, 1, 1).
  assert packed(8, [0, 1, 3, 5, 7]).num_bits == 1 + 8
  assert packed(8, range(8)).num_bits == 0
  assert packed(8, []).num_bits == 0
  assert packed(8, [], known=False).num_bits == 4
  assert packed(1, [0], known=False).num_bits == 1


def test_random_sets_come_near_their_entropy(rng):
  n, k = 100_000, 1000
  indices = np.sort(rng.choice(n, k, replace=False))
  entropy = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
  assert entropy < packed(n, indices).num_bits < 1.05 * entropy


@pytest.mark.parametrize('n, count, b', [(1000, 3, 7), (10, 10, 0), (2**31, 1, 30), (5, 0, 1)])
def test_rice_parameter_is_near_the_best(n, count, b):
  assert int(index_sets.rice_parameter(n, count)) == b
