"""The cost of a message in bits, and the ledger that records all messages.

A *price* is the cost of a message: an `OrderedDict` from kind to bits, int64 []:
  payload         numbers of the model, or their codes
  index_or_mask   which numbers these are
  flag            one-bit decisions
  scalar          single coefficients
  catch_up        what a client that missed rounds must download before it can take part
Transport headers are not counted. Floats are 32 bits unless a codec says otherwise. Each message
is sent on its own, so its bits are rounded up to whole bytes once.
"""

import collections
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from tff_lowrank import structures

KINDS = ('payload', 'index_or_mask', 'flag', 'scalar', 'catch_up')
UPLINK = 'uplink'
DOWNLINK = 'downlink'

SCALAR_BITS = 32
FLAG_BITS = 1
SEED_BITS = 64

Price = collections.OrderedDict[str, tf.Tensor]


def price(**bits: Any) -> Price:
  """A price with the given bits; other kinds are 0.

  >>> from tff_lowrank import ledger
  >>> {kind: int(bits) for kind, bits in ledger.price(payload=64, flag=1).items()}
  {'payload': 64, 'index_or_mask': 0, 'flag': 1, 'scalar': 0, 'catch_up': 0}
  """
  unknown = sorted(set(bits) - set(KINDS))
  if unknown:
    raise ValueError(f'A price has the kinds {KINDS}, found {unknown}.')
  return collections.OrderedDict((kind, tf.cast(bits.get(kind, 0), tf.int64)) for kind in KINDS)


def dense_price(value: Any) -> Price:
  """The price of tensors (or specs of static shape) sent uncompressed, in their own dtype."""
  leaves = tf.nest.flatten(value)
  return price(
    payload=sum(structures.num_elements(x) * tf.as_dtype(x.dtype).size * 8 for x in leaves)
  )


def selected_price(mask: Any, value: Any) -> Price:
  """The price of the numbers of `value`, tensors or specs, for which `mask` is true.

  `mask` is that of `structures.count`. The price does not include the mask itself.
  """
  bits = (
    structures.count([chosen], leaf) * tf.as_dtype(leaf.dtype).size * 8
    for chosen, leaf in zip(mask, tf.nest.flatten(value), strict=True)
  )
  return price(payload=sum(bits))


_POWERS = tuple(1 << b for b in range(40))


def bit_length(n: Any) -> tf.Tensor:
  """int64 []: the bits of the integer `n` in binary, 0 for 0."""
  return tf.reduce_sum(tf.cast(tf.cast(n, tf.int64) >= tf.constant(_POWERS, tf.int64), tf.int64))


def index_width(num_elements: Any) -> tf.Tensor:
  """int64 []: the bits of an index of `num_elements`: ceil(log2), and at least 1."""
  return bit_length(tf.maximum(tf.cast(num_elements, tf.int64) - 1, 1))


def index_set_bits(num_chosen: Any, num_elements: Any) -> tf.Tensor:
  """int64 []: the bits of a set of `num_chosen` of `num_elements` elements, both integers.

  A bitmap or one index per chosen element, whichever is smaller; 0 for an empty set.
  """
  indices = tf.cast(num_chosen, tf.int64) * index_width(num_elements)
  return tf.minimum(tf.cast(num_elements, tf.int64), indices)


def add(*prices: Price) -> Price:
  return price(**{kind: sum(p[kind] for p in prices) for kind in KINDS} if prices else {})


def select(condition: tf.Tensor, if_true: Price, if_false: Price) -> Price:
  return structures.select(condition, if_true, if_false)


def total(p: Mapping[str, Any]) -> Any:
  """The sum of the bits of all kinds."""
  return sum(p[kind] for kind in KINDS)


def to_bytes(bits: int) -> int:
  """The length in bytes of a message of `bits` bits."""
  return (int(bits) + 7) // 8


def column(kind: str) -> str:
  """The ledger's column for the bits of one of `KINDS`."""
  return f'{kind}_bits'


class Ledger:
  """A record of all messages, one entry per round, client and direction.

  Entries are kept in memory until they are drained.
  Columns of `to_table()`: `round`, `client`, `direction`, the bits of each kind as `payload_bits`
  and so on, `bytes`, and `official_units`: the size of the message as the method's paper counts
  it. The metadata of each field of the schema has its `unit`.
  """

  def __init__(self, total_bytes: Mapping[str, int] | None = None):
    """Creates a ledger whose totals start at `total_bytes` by direction; at 0 if None."""
    self._columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    self._total_bytes = {UPLINK: 0, DOWNLINK: 0} | dict(total_bytes or {})

  def enter(
    self,
    round_num: int,
    client: str,
    direction: str,
    bits: Mapping[str, int],
    official_units: int,
  ) -> int:
    """Enters one message and returns its bytes. `direction` is `'uplink'` or `'downlink'`."""
    length = to_bytes(total(bits))
    entry = dict(
      round=round_num,
      client=client,
      direction=direction,
      **{column(kind): int(bits[kind]) for kind in KINDS},
      bytes=length,
      official_units=int(official_units),
    )
    for name, cells in self._columns.items():
      cells.append(entry[name])
    self._total_bytes[direction] += length
    return length

  def total_bytes(self, direction: str) -> int:
    """Bytes of all messages so far in one direction."""
    return self._total_bytes[direction]

  def to_table(self) -> pa.Table:
    return pa.table(self._columns, schema=_SCHEMA)

  def write(self, path: str) -> None:
    with open(path, 'wb') as target:
      pq.write_table(self.to_table(), target)

  def drain(self) -> bytes:
    """Removes the entries, and returns them for the stream of `write_drained`; totals stay."""
    (batch,) = self.to_table().to_batches() or [pa.RecordBatch.from_pylist([], _SCHEMA)]
    for cells in self._columns.values():
      cells.clear()
    return batch.serialize().to_pybytes()


def stream_header() -> bytes:
  """The bytes before the drained entries that make the stream an Arrow IPC stream."""
  return _SCHEMA.serialize().to_pybytes()


def write_drained(stream: str, path: str) -> None:
  """Writes a stream's entries as a Parquet file, as `Ledger.write`, piece by piece.

  Columns are identified by position: earlier versions had other names for some.
  """
  # Opened here, since pyarrow interprets some paths as addresses.
  with open(stream, 'rb') as source, open(path, 'wb') as target:
    with pq.ParquetWriter(target, _SCHEMA) as writer:
      if source.peek(1):
        for batch in pa.ipc.open_stream(source):
          writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=_SCHEMA))


def _field(name: str, kind: pa.DataType, unit: str) -> pa.Field:
  return pa.field(name, kind, metadata=dict(unit=unit))


_SCHEMA = pa.schema(
  [
    _field('round', pa.int64(), 'round'),
    _field('client', pa.string(), 'none'),
    _field('direction', pa.string(), 'none'),
    *(_field(column(kind), pa.int64(), 'bit') for kind in KINDS),
    _field('bytes', pa.int64(), 'byte'),
    _field('official_units', pa.int64(), "of the method's paper"),
  ]
)
