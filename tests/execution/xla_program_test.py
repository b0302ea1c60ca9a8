import numpy as np

from tests.execution import cases
from tests.learning import linear


def test_one_program_serves_clients_of_any_length(rng, monkeypatch):
  process, *_ = cases.federated_averaging(rng)
  examples = [linear.examples(rng, n) for n in (9, 3, 12, 6, 6, 30, 3, 9)]
  data = [linear.dataset(*e, cases.BATCH) for e in examples]
  initial = process.get_model_weights(process.initialize()).trainable
  (weights, _), programs = cases.run_in_xla(monkeypatch, process, data, False)
  assert not any(p.batched for p in programs)
  wanted = cases.numpy_rounds(initial, examples, 2)
  for a, b in zip(weights, wanted, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
