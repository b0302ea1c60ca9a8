"""The settings of freezing."""

import dataclasses
import math

from tff_lowrank import checks
from tff_lowrank.freezing import aggressive
from tff_lowrank.freezing import control
from tff_lowrank.freezing import stability

GRANULARITIES = ('scalar', 'tensor')


@dataclasses.dataclass(frozen=True)
class Settings:
  """How parameters are frozen; the defaults are those of APF's experiments.

  stability_threshold: a parameter whose effective perturbation is below it is stable. With 0
    nothing is ever frozen; above 1 every parameter that has changed is stable.
  check_every: rounds between stability checks.
  ema_decay: the decay of the moving averages of eq. 3, in [0, 1).
  window: if given, uses the effective perturbation of eq. 2 over this many last checks instead.
  control: how checks change the freezing period, one of `control.CONTROLS`.
  aggressive: additional random freezing, one of `aggressive.VARIANTS`.
  granularity: `'scalar'` decides for each scalar, as APF does, `'tensor'` for each tensor.
  zero_update: whether a parameter that never changed is `'unstable'`, as in the published code,
    or `'stable'`.
  threshold_floor: the threshold is never halved below it.
  seed: seeds, together with check and coordinate, all randomness.
  """

  stability_threshold: float = 0.05
  check_every: int = 1
  ema_decay: float = 0.99
  window: int | None = None
  control: str = 'aimd'
  aggressive: str = 'none'
  granularity: str = 'scalar'
  zero_update: str = 'unstable'
  threshold_floor: float = 0.0
  seed: int = 0

  def __post_init__(self) -> None:
    checks.check_type('stability_threshold', self.stability_threshold, (int, float))
    if not 0 <= self.stability_threshold < math.inf:
      raise ValueError(
        f'`stability_threshold` must be finite and at least 0, found {self.stability_threshold!r}.'
      )
    checks.check_at_least('check_every', self.check_every, 1)
    checks.check_in_range('ema_decay', self.ema_decay, 0, 1)
    if self.ema_decay == 1:
      raise ValueError('`ema_decay` must be below 1, found 1: the averages would never change.')
    if self.window is not None:
      checks.check_at_least('window', self.window, 1)
    checks.check_one_of('control', self.control, control.CONTROLS)
    checks.check_one_of('aggressive', self.aggressive, aggressive.VARIANTS)
    checks.check_one_of('granularity', self.granularity, GRANULARITIES)
    checks.check_one_of('zero_update', self.zero_update, stability.ZERO_UPDATES)
    checks.check_in_range('threshold_floor', self.threshold_floor, 0, self.stability_threshold)
    checks.check_at_least('seed', self.seed, 0)
    if self.aggressive != 'none' and self.stability_threshold == 0:
      raise ValueError(
        f'A `stability_threshold` of 0 freezes nothing, but `aggressive` is {self.aggressive!r}.'
      )
