"""APF on pure noise: the null curve with which a frozen fraction should be compared.

Parameters that change only by noise freeze too, so a growing frozen fraction alone does not show
that a model converges. In NumPy, with a constant threshold.
"""

import numpy as np


def simulate(
  num_checks: int,
  *,
  num_parameters: int = 10_000,
  threshold: float = 0.05,
  ema_decay: float = 0.99,
  freezes: bool = True,
  seed: int = 0,
) -> np.ndarray:
  """Runs APF on parameters whose changes are independent normal random numbers.

  Args:
    num_checks: The number of checks to run.
    num_parameters: The number of parameters to simulate.
    threshold: The stability threshold.
    ema_decay: The decay of the moving averages.
    freezes: If false, nothing is ever frozen.
    seed: The random seed.

  Returns:
    float64 [num_checks], after each check: the fraction of frozen parameters, or, if nothing
    freezes, the fraction of stable ones, an estimate of Pr(P < T).
  """
  rng = np.random.default_rng(seed)
  signed, magnitude = np.zeros(num_parameters), np.zeros(num_parameters)
  period, wake = np.zeros(num_parameters, np.int64), np.zeros(num_parameters, np.int64)
  fractions = np.empty(num_checks)
  for check in range(num_checks):
    active = wake <= check
    change = rng.normal(size=num_parameters)
    signed[active] = (ema_decay * signed + (1 - ema_decay) * change)[active]
    magnitude[active] = (ema_decay * magnitude + (1 - ema_decay) * np.abs(change))[active]
    stable = np.abs(signed) < threshold * magnitude
    if not freezes:
      fractions[check] = stable.mean()
      continue
    period[active] = np.where(stable, period + 1, period // 2)[active]
    wake[active] = check + 1 + period[active]
    fractions[check] = np.mean(wake > check + 1)
  return fractions
