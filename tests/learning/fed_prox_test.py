"""Rounds of FedProx against NumPy written from its equations."""

import numpy as np
import pytest
import tensorflow_federated as tff

from tests.learning import tiny
from tff_lowrank import learning

optimizers = tff.learning.optimizers
sgd = tff.learning.optimizers.build_sgdm


@pytest.mark.parametrize(
  'weighting, rates',
  [
    (tiny.UNIFORM, tiny.ALIKE),
    (tiny.NUM_EXAMPLES, tiny.ALIKE),
    (tiny.NUM_EXAMPLES, tiny.OWN),
  ],
)
def test_fed_prox(model, clients, weighting, rates):
  process = learning.build_fed_prox(
    model, tiny.optimizer(rates), mu=0.7, client_weighting=weighting
  )
  assert not process.has_client_state
  w = tiny.flat(model.initial_weights[0]).astype(np.float64)
  for cohort, got, output, _ in tiny.run(process, clients, rates=rates):
    start = w
    trained = [
      tiny.train(start, *clients[c], lambda v, s=start: 0.7 * (v - s), rates[c])[0] for c in cohort
    ]
    w = tiny.shares(cohort, weighting) @ trained
    np.testing.assert_allclose(got, w, atol=1e-6)
    assert (
      tiny.total_bits(output, 'uplink')
      == tiny.total_bits(output, 'downlink')
      == [32 * tiny.FLOATS] * len(cohort)
    )


def test_refuses_bad_arguments(model):
  with pytest.raises(ValueError, match='`mu`'):
    learning.build_fed_prox(model, sgd(0.1), mu=-0.1)
