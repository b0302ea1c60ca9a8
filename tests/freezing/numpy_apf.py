"""APF once more, in NumPy from the equations, one parameter after the other."""

import numpy as np


class NumpyApf:
  """State of `size` parameters; `check` takes the changes since the last check, float64."""

  def __init__(self, size, threshold, decay=0.99, control='aimd', zero_is_stable=False):
    self.E, self.A = np.zeros(size), np.zeros(size)
    self.L, self.U = [0] * size, [0] * size
    self.c, self.T = 0, threshold
    self.decay, self.control, self.zero_is_stable = decay, control, zero_is_stable

  @property
  def frozen(self):
    return np.array([u > self.c for u in self.U])

  def _next(self, period, stable):
    if self.control == 'aimd':
      return period + 1 if stable else period // 2
    if self.control == 'additive':
      return period + 1 if stable else max(period - 1, 0)
    if self.control == 'multiplicative':
      return max(1, 2 * period) if stable else period // 2
    if self.control == 'fixed':
      return 10 if stable else 0
    return 10**9 if stable else 0

  def check(self, change, extra=None):
    a = self.decay
    for j, d in enumerate(change):
      if self.U[j] > self.c:
        continue
      self.E[j] = a * self.E[j] + (1 - a) * d
      self.A[j] = a * self.A[j] + (1 - a) * abs(d)
      if self.A[j] == 0:
        stable = self.zero_is_stable and self.T > 0
      else:
        stable = abs(self.E[j]) / self.A[j] < self.T
      self.L[j] = self._next(self.L[j], stable)
      self.U[j] = self.c + 1 + self.L[j] + (0 if extra is None else extra[j])
    self.c += 1
    if sum(self.frozen) > 0.8 * len(self.U):
      self.T /= 2
