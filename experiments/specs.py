"""What a run is: a frozen record of every setting that decides its numbers."""

from collections.abc import Mapping
import dataclasses
from typing import Any

# Method -> the flags that are its own. All other flags mean something under every method.
METHOD_FLAGS: Mapping[str, tuple[str, ...]] = {
  'fed_avg': (),
  'lbgm': ('lbgm_threshold', 'lbgm_granularity'),
  'lbgm_shared': ('lbgm_threshold', 'lbgm_granularity'),
}

CONTEXTS = ('local', 'stock')
OPTIMIZERS = ('sgd', 'adam', 'adagrad', 'yogi')


@dataclasses.dataclass(frozen=True)
class RunSpec:
  """The settings of one run; the fields are the flags of the same names."""

  task: str
  method: str
  rounds: int
  num_clients: int
  clients_per_round: int
  partition: str
  client_epochs: int
  batch_size: int
  client_optimizer: str
  client_learning_rate: float
  server_optimizer: str
  server_learning_rate: float
  server_momentum: float
  client_weighting: str
  seed: int
  eval_every: int
  data_dir: str | None
  context: str
  uplink: str
  lbgm_threshold: float
  lbgm_granularity: str

  def as_dict(self) -> dict[str, Any]:
    """The settings that mean something under the method."""
    others = {flag for flags in METHOD_FLAGS.values() for flag in flags}
    others -= set(METHOD_FLAGS[self.method])
    return {name: value for name, value in dataclasses.asdict(self).items() if name not in others}
