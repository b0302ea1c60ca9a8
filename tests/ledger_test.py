import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tff_lowrank import ledger


def as_ints(price):
  return {kind: int(bits) for kind, bits in price.items()}


def test_price_has_all_kinds_and_refuses_others():
  price = ledger.price(payload=64, flag=1)
  assert as_ints(price) == dict(payload=64, index_or_mask=0, flag=1, scalar=0, catch_up=0)
  assert all(bits.dtype == tf.int64 for bits in price.values())
  with pytest.raises(ValueError, match="found \\['header'\\]"):
    ledger.price(header=8)


def test_dense_price_follows_the_dtype():
  # 2 x 3 float32 and 5 float16: 6 * 32 + 5 * 16 = 272 bits.
  specs = [tf.TensorSpec([2, 3], tf.float32), tf.TensorSpec([5], tf.float16)]
  assert as_ints(ledger.dense_price(specs))['payload'] == 272


def test_sums_beyond_32_bits():
  big = ledger.price(payload=2**40)
  assert int(ledger.total(ledger.add(big, big, ledger.price(flag=3)))) == 2**41 + 3
  assert int(ledger.total(ledger.add())) == 0


def test_select():
  chosen = ledger.select(tf.constant(False), ledger.price(payload=8), ledger.price(scalar=32))
  assert as_ints(chosen) == as_ints(ledger.price(scalar=32))


@pytest.mark.parametrize('bits, length', [(0, 0), (1, 1), (8, 1), (9, 2), (32, 4)])
def test_to_bytes_rounds_up(bits, length):
  assert ledger.to_bytes(bits) == length


def test_ledger_books_every_message(tmp_path):
  book = ledger.Ledger()
  assert book.enter(1, 'a', ledger.UPLINK, as_ints(ledger.price(payload=64, flag=2)), 2) == 9
  book.enter(1, 'a', ledger.DOWNLINK, as_ints(ledger.price(payload=64)), 0)
  book.enter(2, 'b', ledger.UPLINK, as_ints(ledger.price(scalar=32, flag=1)), 1)
  assert book.total_bytes(ledger.UPLINK) == 9 + 5
  assert book.total_bytes(ledger.DOWNLINK) == 8
  book.write(tmp_path / 'ledger.parquet')
  found = pq.read_table(tmp_path / 'ledger.parquet')
  assert {field.name: field.metadata[b'unit'].decode() for field in found.schema} == {
    'round': 'round',
    'client': 'none',
    'direction': 'none',
    'payload_bits': 'bit',
    'index_or_mask_bits': 'bit',
    'flag_bits': 'bit',
    'scalar_bits': 'bit',
    'catch_up_bits': 'bit',
    'bytes': 'byte',
    'official_units': "of the method's paper",
  }
  table = found.to_pandas()
  assert table['payload_bits'].tolist() == [64, 64, 0]
  np.testing.assert_array_equal(table['bytes'], [9, 8, 5])
  assert table['client'].tolist() == ['a', 'a', 'b']


def test_selected_price_by_hand():
  # Two of three float32 and a whole tensor of four float16: 2 * 32 + 4 * 16 = 128 bits.
  specs = [tf.TensorSpec([3], tf.float32), tf.TensorSpec([2, 2], tf.float16), tf.TensorSpec([5])]
  mask = [tf.constant([True, False, True]), tf.constant(True), tf.constant(False)]
  assert as_ints(ledger.selected_price(mask, specs))['payload'] == 128
  assert int(ledger.total(ledger.selected_price([], []))) == 0


def test_index_set_is_the_smaller_of_bitmap_and_indices():
  # Of 21 elements an index takes 5 bits: up to four indices are cheaper than 21 bits.
  for chosen, bits in ((0, 0), (1, 5), (4, 20), (5, 21), (21, 21)):
    assert int(ledger.index_set_bits(tf.constant(chosen, tf.int64), 21)) == bits
  # One of one and one of two: a bit; of 2^k elements k bits; of none nothing.
  for chosen, elements, bits in ((1, 1, 1), (1, 2, 1), (1, 1024, 10), (1, 1025, 11), (0, 0, 0)):
    assert int(ledger.index_set_bits(tf.constant(chosen, tf.int64), elements)) == bits


def test_drained_entries_make_the_same_file(tmp_path):
  whole, parts = ledger.Ledger(), ledger.Ledger()
  stream = ledger.stream_header()
  for r in range(1, 4):
    for client in ('a', 'ä')[: r - 1]:  # Nobody in the first round.
      bits = dict.fromkeys(ledger.KINDS, 0) | dict(payload=13 * r)
      for book in (whole, parts):
        book.enter(r, client, ledger.UPLINK, bits, r)
    stream += parts.drain()
  (tmp_path / 'stream').write_bytes(stream)
  ledger.write_drained(str(tmp_path / 'stream'), str(tmp_path / 'parts.parquet'))
  found = pq.read_table(tmp_path / 'parts.parquet')
  assert found.equals(whole.to_table())
  assert parts.to_table().num_rows == 0
  assert parts.total_bytes(ledger.UPLINK) == whole.total_bytes(ledger.UPLINK) == 14  # 4, twice 5.
  (tmp_path / 'empty').write_bytes(b'')
  ledger.write_drained(str(tmp_path / 'empty'), str(tmp_path / 'empty.parquet'))
  assert pq.read_table(tmp_path / 'empty.parquet').schema == found.schema
  again = ledger.Ledger({ledger.UPLINK: 14})
  assert (again.total_bytes(ledger.UPLINK), again.total_bytes(ledger.DOWNLINK)) == (14, 0)


def test_goes_on_with_a_stream_of_earlier_names(tmp_path):
  """As of a run that was begun with them."""
  book = ledger.Ledger()
  whole = ledger.Ledger()
  stream = b''
  for r in (1, 2):
    for one in (book, whole):
      one.enter(r, 'a', ledger.UPLINK, as_ints(ledger.price(payload=8 * r, flag=1)), r)
    entries = book.to_table()
    new = book.drain()
    if r == 1:
      entries = entries.rename_columns([n.removesuffix('_bits') for n in entries.column_names])
      [batch] = entries.to_batches()
      stream += batch.schema.serialize().to_pybytes() + batch.serialize().to_pybytes()
    else:
      stream += new
  (tmp_path / 'stream').write_bytes(stream)
  ledger.write_drained(str(tmp_path / 'stream'), str(tmp_path / 'ledger.parquet'))
  assert pq.read_table(tmp_path / 'ledger.parquet').equals(whole.to_table())
