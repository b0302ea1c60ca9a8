"""Rounds of FedDyn against NumPy written from its equations."""

import numpy as np
import pytest
import tensorflow_federated as tff

from tests.learning import tiny
from tff_lowrank import codecs
from tff_lowrank import learning

optimizers = tff.learning.optimizers
sgd = tff.learning.optimizers.build_sgdm


@pytest.mark.parametrize(
  'weighting, rates',
  [
    (tiny.UNIFORM, tiny.ALIKE),
    (tiny.NUM_EXAMPLES, tiny.ALIKE),
    (tiny.UNIFORM, tiny.OWN),
  ],
)
def test_fed_dyn(model, clients, weighting, rates):
  alpha = 0.3
  process = learning.build_fed_dyn(
    model, tiny.optimizer(rates), num_clients=4, alpha=alpha, client_weighting=weighting
  )
  theta = tiny.flat(model.initial_weights[0]).astype(np.float64)
  h, own = np.zeros(tiny.FLOATS), {k: np.zeros(tiny.FLOATS) for k in clients}
  for cohort, got, output, memory in tiny.run(process, clients, rates=rates):
    trained = []
    for k in cohort:
      pull = lambda v, k=k, s=theta: -own[k] + alpha * (v - s)  # noqa: E731
      w, _ = tiny.train(theta, *clients[k], pull, rates[k])
      own[k] = own[k] - alpha * (w - theta)
      trained.append(w)
    p = tiny.shares(cohort, weighting)
    h = h - alpha * len(cohort) / 4 * (p @ trained - theta)
    theta = p @ trained - h / alpha
    np.testing.assert_allclose(got, theta, atol=1e-5)
    np.testing.assert_allclose(
      tiny.flat(output.state.finalizer['correction']), h / alpha, atol=1e-5
    )
    for k in clients:
      np.testing.assert_allclose(tiny.flat(memory[k]['work']['gradient']), own[k], atol=1e-5)
    assert tiny.total_bits(output, 'uplink') == [32 * tiny.FLOATS] * len(cohort)
    assert tiny.total_bits(output, 'downlink') == [32 * tiny.FLOATS] * len(cohort)


def test_refuses_bad_arguments(model):
  with pytest.raises(ValueError, match='`alpha`'):
    learning.build_fed_dyn(model, sgd(0.1), alpha=float('nan'), num_clients=2)
  with pytest.raises(ValueError, match='excludes whole clients from the mean'):
    learning.build_fed_dyn(model, sgd(0.1), num_clients=2, codec=codecs.CMFL(0.5))
