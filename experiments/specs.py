"""What a run is: a frozen record of every setting that decides its numbers."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from tff_lowrank import freezing

_APF = (
  'apf_stability_threshold',
  'apf_check_every',
  'apf_aggressive',
  'apf_ema_decay',
  'apf_granularity',
  'apf_zero_update',
  'apf_mask_policy',
)

# Method -> the flags that are its own. All other flags mean something under every method.
METHOD_FLAGS: Mapping[str, tuple[str, ...]] = {
  'fed_avg': (),
  'lbgm': ('lbgm_threshold', 'lbgm_granularity'),
  'lbgm_shared': ('lbgm_threshold', 'lbgm_granularity'),
  'apf': (*_APF, 'apf_control'),
  'apf_partial_sync': _APF,
  'fedpara': (),
  'pfedpara': (),
  'fed_per': (),
  'local_only': (),
  'fed_prox': ('fed_prox_mu',),
  'scaffold': (),
  'fed_dyn': ('fed_dyn_alpha',),
}

# Methods that take no codec for the way up, and those that take one for the way down.
METHODS_WITHOUT_UPLINK = ('lbgm_shared', 'local_only')
METHODS_WITH_DOWNLINK = ('fed_avg', 'fedpara', 'lbgm', 'lbgm_shared')

# Method -> the family that the layers of its models are of. Others take any --model_family.
METHOD_FAMILIES: Mapping[str, str] = {'fedpara': 'fedpara', 'pfedpara': 'pfedpara'}

# Methods whose clients have models of their own.
PERSONAL_METHODS = ('pfedpara', 'fed_per', 'local_only')

CONTEXTS = ('local', 'stock')
CLIENT_MEMORY = ('auto', 'ram', 'disk', 'disk_float16')
OPTIMIZERS = ('sgd', 'adam', 'adagrad', 'yogi')


@dataclasses.dataclass(frozen=True)
class RunSpec:
  """The settings of one run; the fields are the flags of the same names.

  `num_clients` is 0 for all of the data set's own clients.
  """

  task: str
  method: str
  rounds: int
  num_clients: int
  clients_per_round: int
  partition: str
  client_epochs: int
  batch_size: int
  client_max_elements: int
  client_optimizer: str
  client_learning_rate: float
  client_rate_decay: float
  server_optimizer: str
  server_learning_rate: float
  server_momentum: float
  server_epsilon: float | None
  client_weighting: str
  seed: int
  eval_every: int
  data_dir: str | None
  context: str
  client_memory: str
  dropout_rate: float
  straggler_deadline: float | None
  uplink: str
  downlink: str
  lbgm_threshold: float
  lbgm_granularity: str
  apf_stability_threshold: float
  apf_check_every: int
  apf_control: str
  apf_aggressive: str
  apf_ema_decay: float
  apf_granularity: str
  apf_zero_update: str
  apf_mask_policy: str
  client_test_fraction: float
  evaluate_after_training: bool
  model_family: str
  fedpara_gamma: float
  fedpara_tanh: bool
  fedpara_head_rank: int | None
  fed_prox_mu: float
  fed_dyn_alpha: float

  def as_dict(self) -> dict[str, Any]:
    """The settings that mean something under the method."""
    others = {flag for flags in METHOD_FLAGS.values() for flag in flags}
    others -= set(METHOD_FLAGS[self.method])
    if self.gamma is None:
      others.add('fedpara_gamma')
    if self.gamma is None or self.fedpara_head_rank is None:
      others.add('fedpara_head_rank')
    if not self.tanh:
      others.add('fedpara_tanh')
    if self.client_rate_decay == 1:
      others.add('client_rate_decay')
    if self.server_epsilon is None:
      others.add('server_epsilon')
    return {name: value for name, value in dataclasses.asdict(self).items() if name not in others}

  def is_evaluated(self, round_num: int) -> bool:
    """Whether the model is evaluated after the round."""
    return round_num == self.rounds or round_num % self.eval_every == 0

  @property
  def gamma(self) -> float | None:
    """FedPara's rank hyper-parameter; None for models of ordinary layers."""
    return None if self.model_family == 'original' else self.fedpara_gamma

  @property
  def tanh(self) -> bool:
    """Whether FedPara's kernels are products of tanh."""
    return self.fedpara_tanh and self.model_family == 'fedpara'

  def freezing_settings(self) -> freezing.Settings | None:
    """How parameters are frozen under the method, or None if it freezes none.

    Raises ValueError if the settings contradict each other.
    """
    if 'apf_stability_threshold' not in METHOD_FLAGS[self.method]:
      return None
    return freezing.Settings(
      stability_threshold=self.apf_stability_threshold,
      check_every=self.apf_check_every,
      ema_decay=self.apf_ema_decay,
      control='permanent' if self.method == 'apf_partial_sync' else self.apf_control,
      aggressive=self.apf_aggressive,
      granularity=self.apf_granularity,
      zero_update=self.apf_zero_update,
      seed=self.seed,
    )
