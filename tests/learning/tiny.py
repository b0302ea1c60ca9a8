"""Rounds of small processes whose clients correct their steps, and the same in NumPy."""

import numpy as np
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import client_work

sgd = tff.learning.optimizers.build_sgdm


RATE, BATCH, FLOATS = 0.2, 4, 21
NUMBERS = dict(a=8, b=11, c=16, d=5)
# Clients sampled in each round; d takes part late, and so has an old memory or none.
COHORTS = ('abc', 'ab', 'bcd', 'ad')
# Of each client: the same one, or one of its own.
ALIKE = dict.fromkeys(NUMBERS, RATE)
OWN = dict(a=0.2, b=0.05, c=0.4, d=0.1)
UNIFORM = tff.learning.ClientWeighting.UNIFORM
NUM_EXAMPLES = tff.learning.ClientWeighting.NUM_EXAMPLES


def flat(tensors):
  return np.concatenate([np.ravel(t) for t in tensors])


def unflat(vector):
  return [vector[:18].reshape(6, 3), vector[18:]]


def optimizer(rates):
  return sgd(RATE) if rates is ALIKE else client_work.ClientRates(sgd(1.0))


def train(start, x, y, correction, rate=RATE):
  """SGD from `start`, [21], on the gradient plus `correction(w)`; w and the number of steps."""
  w, steps = start, 0
  for i in range(0, len(x), BATCH):
    gradient = flat(linear.gradients(*unflat(w), x[i : i + BATCH], y[i : i + BATCH]))
    w, steps = w - rate * (gradient + correction(w)), steps + 1
  return w, steps


def run(process, clients, cohorts=COHORTS, rates=ALIKE):
  """Yields the cohort, the model [21], the output and the memories after each round."""
  state = process.initialize()
  memory = {c: process.initialize_client() for c in clients}
  for cohort in cohorts:
    data = [
      linear.dataset(*clients[c], BATCH, None if rates is ALIKE else rates[c]) for c in cohort
    ]
    output = process.next(state, [memory[c] for c in cohort], data)
    state = output.state
    memory.update(zip(cohort, output.client_states, strict=True))
    yield cohort, flat(process.get_model_weights(state).trainable), output, memory


def shares(cohort, weighting):
  weights = np.array([1 if weighting == UNIFORM else NUMBERS[c] for c in cohort])
  return weights / weights.sum()


def total_bits(output, direction):
  return [sum(int(bits) for bits in report[direction].values()) for report in output.reports]
