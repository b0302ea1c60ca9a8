"""The simulated time of a round on a network."""

from collections.abc import Iterable
import dataclasses


@dataclasses.dataclass(frozen=True)
class Network:
  """Each client has its own link to the server; the server itself is not a bottleneck.

  The defaults are the 9 Mbps downlink and 3 Mbps uplink of APF's experiments (ICDCS 2021).

  downlink_mbps, uplink_mbps: 10^6 bits per second.
  latency_seconds: one way, for each message.
  """

  downlink_mbps: float = 9.0
  uplink_mbps: float = 3.0
  latency_seconds: float = 0.0

  def __post_init__(self) -> None:
    for name in ('downlink_mbps', 'uplink_mbps'):
      if not getattr(self, name) > 0:
        raise ValueError(f'`{name}` must be above 0, found {getattr(self, name)!r}.')
    if not self.latency_seconds >= 0:
      raise ValueError(f'`latency_seconds` must be at least 0, found {self.latency_seconds!r}.')

  def transfer_seconds(self, downlink_bytes: int, uplink_bytes: int) -> float:
    """One client's transfer time in a round."""
    down = downlink_bytes * 8 / (self.downlink_mbps * 1e6)
    up = uplink_bytes * 8 / (self.uplink_mbps * 1e6)
    return down + up + 2 * self.latency_seconds

  def client_seconds(
    self, downlink_bytes: int, uplink_bytes: int, compute_seconds: float = 0.0
  ) -> float:
    """The time of a client in a round: it receives the model, computes, and sends its update.

    Raises ValueError if `compute_seconds` is negative.

    >>> from tff_lowrank.simulation import network
    >>> links = network.Network(downlink_mbps=8, uplink_mbps=16, latency_seconds=0.1)
    >>> round(links.client_seconds(downlink_bytes=1_000_000, uplink_bytes=500_000), 3)
    1.45
    """
    if not compute_seconds >= 0:
      raise ValueError(f'`compute_seconds` must be at least 0, found {compute_seconds!r}.')
    return self.transfer_seconds(downlink_bytes, uplink_bytes) + compute_seconds

  def round_seconds(
    self, clients: Iterable[tuple[int, int] | tuple[int, int, float]], server_seconds: float = 0.0
  ) -> float:
    """The time of a synchronous round: that of the slowest client plus the server's.

    `clients` has each client's (downlink bytes, uplink bytes), optionally with its computation
    time in seconds.
    """
    slowest = max((self.client_seconds(*client) for client in clients), default=0.0)
    return slowest + server_seconds
