import numpy as np
import pytest
import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank import codecs
from tff_lowrank.aggregators import global_look_back

VALUE = tff.to_type([(np.float32, (3,)), (np.float32, (2,))])
WEIGHT = tff.TensorType(np.float32)


def value(a, b):
  return [np.float32(a), np.float32(b)]


def known(*updates, exist):
  return global_look_back.Updates(list(updates), np.array(exist))


def test_looks_back_at_what_it_is_given():
  codec = codecs.LookBack(threshold=0.1, granularity='model', vectors=2)
  process = aggregators.GlobalLookBackFactory(codec).create(VALUE, WEIGHT)
  assert not process.has_client_state
  assert process.takes_model
  state = process.initialize()
  x, y = value([1, 0, 0], [1, 1]), value([0, 1, 0], [0, 0])
  nothing = value([0, 0, 0], [0, 0])
  rounds = (
    # Nothing to look back at; one update, which one client is parallel to; two, in whose span both
    # clients are.
    (known(nothing, nothing, exist=[False, False]), (x, y), [161, 161]),
    (known(nothing, x, exist=[False, True]), (value([-2, 0, 0], [-2, -2]), y), [33, 161]),
    (known(x, y, exist=[True, True]), (value([1, 5, 0], [1, 1]), y), [65, 65]),
  )
  for vectors, values, bits in rounds:
    output = process.next(state, [[()]] * 2, values, [1.0, 3.0], [vectors] * 2)
    state = output.state
    for i, got in enumerate(output.result):
      np.testing.assert_allclose(got, 0.25 * values[0][i] + 0.75 * values[1][i], rtol=1e-6)
    assert [sum(r['uplink'].values()) for r in output.reports] == bits
    assert all(sum(r['downlink'].values()) == 0 for r in output.reports)


def test_a_client_that_does_not_count_keeps_the_inner_memory():
  codec = codecs.LookBack(codecs.ErrorFeedback(codecs.TopK(1)), threshold=0.1)
  process = aggregators.GlobalLookBackFactory(codec).create(VALUE, WEIGHT)
  nothing = known(value([0, 0, 0], [0, 0]), exist=[False])
  values = [value([3, 2, 0], [1, 0.5]), value([np.nan, 0, 0], [1, 1])]
  memory = [process.initialize_client()] * 2
  output = process.next(process.initialize(), memory, values, [1.0, 1.0], [nothing] * 2)
  np.testing.assert_array_equal(output.result[0], [3, 0, 0])
  residuals = [memory[0]['residual'][0] for memory in output.client_state]
  np.testing.assert_array_equal(residuals, [[0, 2, 0], [0, 0, 0]])
  assert [bool(r['accepted']) for r in output.reports] == [True, False]


def test_refuses_bad_arguments():
  with pytest.raises(TypeError, match='`codec`'):
    aggregators.GlobalLookBackFactory(codecs.TopK())
  with pytest.raises(ValueError, match='needs the weights of the model'):
    aggregators.GlobalLookBackFactory(codecs.LookBack(codecs.Gaia(accumulate=False)))
  with pytest.raises(TypeError, match='`mean_factory`'):
    aggregators.GlobalLookBackFactory(codecs.LookBack(), tff.aggregators.SumFactory())
  with pytest.raises(ValueError, match='does not work with secure aggregation'):
    aggregators.GlobalLookBackFactory(
      codecs.LookBack(), tff.aggregators.MeanFactory(tff.aggregators.SecureSumFactory(1.0, -1.0))
    )
