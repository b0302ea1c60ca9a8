"""Clients that were sampled for a round but do not take part in it."""

from collections.abc import Iterable
import dataclasses
import zlib

import numpy as np

from tff_lowrank import checks
from tff_lowrank.simulation import network as network_lib

DROPPED_OUT = 'dropped out'
STRAGGLED = 'would miss the deadline'

# Makes the random numbers independent of others with the same seed, round and client.
_SALT = 0xD709


@dataclasses.dataclass
class Absence:
  """Decides which clients are absent.

  A client drops out with probability `dropout_rate`, depending only on seed, round and client. It
  is a straggler if the messages of its last round, as in the ledger, would take longer than
  `deadline_seconds` on the network; a client without a last round is not. An absent client
  receives and sends nothing, and costs nothing. The cost of a straggler's last round is then
  forgotten, so it takes part when it is sampled again.

  Raises TypeError or ValueError if the value of a setting is invalid.
  """

  seed: int
  dropout_rate: float = 0.0
  deadline_seconds: float | None = None
  network: network_lib.Network = dataclasses.field(default_factory=network_lib.Network)

  def __post_init__(self) -> None:
    checks.check_in_range('dropout_rate', self.dropout_rate, 0, 1)
    if self.deadline_seconds is not None and not self.deadline_seconds > 0:
      raise ValueError(f'`deadline_seconds` must be above 0, found {self.deadline_seconds!r}.')
    self._last: dict[str, tuple[int, int]] = {}

  def reason(self, client_id: str, round_num: int) -> str | None:
    """The reason why the client is absent in the round; None if it takes part."""
    if self.dropout_rate:
      key = zlib.crc32(client_id.encode('utf-8', 'surrogatepass'))
      if np.random.default_rng([self.seed, round_num, key, _SALT]).random() < self.dropout_rate:
        return DROPPED_OUT
    if self.deadline_seconds is not None and client_id in self._last:
      if self.network.transfer_seconds(*self._last[client_id]) > self.deadline_seconds:
        del self._last[client_id]
        return STRAGGLED
    return None

  def enter(self, client_id: str, downlink_bytes: int, uplink_bytes: int) -> None:
    """Records the cost of a client's round."""
    if self.deadline_seconds is not None:
      self._last[client_id] = (downlink_bytes, uplink_bytes)

  def save(self) -> tuple[list[str], np.ndarray]:
    """The state for `restore`: client ids, and their bytes [num_clients, 2]."""
    return list(self._last), np.array(list(self._last.values()), np.int64).reshape(-1, 2)

  def restore(self, client_ids: Iterable[str], costs: np.ndarray) -> None:
    """The inverse of `save`."""
    self._last = {c: (int(d), int(u)) for c, (d, u) in zip(client_ids, costs, strict=True)}
