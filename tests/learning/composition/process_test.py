import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import aggregators
from tff_lowrank import codecs
from tff_lowrank import learning
from tff_lowrank.learning.composition import process as process_lib

sgd = tff.learning.optimizers.build_sgdm


@pytest.fixture
def model(rng):
  return linear.build_model(rng)


@pytest.fixture
def clients(rng):
  return [linear.examples(rng, n) for n in (7, 4, 9)]


def datasets(clients):
  return [linear.dataset(x, y, 2) for x, y in clients]


def test_types(model):
  process = learning.build_lbgm_fed_avg(model, sgd(0.1))
  assert process.has_client_state
  parameter = process.next.type_signature.parameter
  result = process.next.type_signature.result
  assert parameter[0] == process.initialize.type_signature.result
  assert parameter[1] == tff.FederatedType(
    process.initialize_client.type_signature.result, tff.CLIENTS
  )
  assert result.client_states == parameter[1]
  assert result.reports.placement is tff.CLIENTS
  weights_type = process.get_model_weights.type_signature.result
  assert process.get_client_model_weights.type_signature.result == weights_type


@pytest.mark.each_once
@pytest.mark.parametrize('client_weighting', list(tff.learning.ClientWeighting))
@pytest.mark.parametrize('server', [sgd(1.0), sgd(0.5, momentum=0.9),
                                    tff.learning.optimizers.build_adam(0.1)])  # fmt: skip
def test_fed_avg_is_tffs_to_the_bit(model, clients, client_weighting, server):
  ours = learning.build_fed_avg(model, sgd(0.1), server, client_weighting=client_weighting)
  if client_weighting == tff.learning.ClientWeighting.UNIFORM:
    theirs = tff.learning.algorithms.build_unweighted_fed_avg(model, sgd(0.1), server)
  else:
    theirs = tff.learning.algorithms.build_weighted_fed_avg(model, sgd(0.1), server)
  plain = ours.as_learning_process()
  a, b, c = ours.initialize(), theirs.initialize(), plain.initialize()
  for _ in range(3):
    output = ours.next(a, [()] * 3, datasets(clients))
    a, b = output.state, theirs.next(b, datasets(clients)).state
    c = plain.next(c, datasets(clients)).state
    expected = theirs.get_model_weights(b).trainable
    for process, state in ((ours, a), (plain, c)):
      for got, wanted in zip(process.get_model_weights(state).trainable, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_any_standard_factory_fits(model, clients):
  process = process_lib.build_process(
    model, sgd(0.1), model_aggregator=tff.learning.robust_aggregator(clipping=False)
  )
  output = process.next(process.initialize(), [()] * 3, datasets(clients))
  assert output.metrics['finalizer']['update_non_finite'] == 0


def test_downlink_is_the_model(model, clients):
  process = learning.build_lbgm_fed_avg(model, sgd(0.1))
  fresh = [process.initialize_client()] * 3
  output = process.next(process.initialize(), fresh, datasets(clients))
  # 6 x 3 weights and 3 biases: 21 floats.
  for report in output.reports:
    assert report['downlink'] == dict(
      payload=21 * 32, index_or_mask=0, flag=0, scalar=0, catch_up=0
    )
    assert report['uplink']['payload'] == 21 * 32


def test_round_without_survivors_changes_nothing(model, clients):
  process = learning.build_lbgm_fed_avg(model, sgd(0.1), sgd(1.0, momentum=0.9))
  fresh = [process.initialize_client()] * 3
  first = process.next(process.initialize(), fresh, datasets(clients))
  poisoned = [(np.full_like(x, np.nan), y) for x, y in clients]
  second = process.next(first.state, first.client_states, datasets(poisoned))
  assert [bool(report['accepted']) for report in second.reports] == [False] * 3
  before = (first.state.global_model_weights, first.state.finalizer, first.client_states)
  after = (second.state.global_model_weights, second.state.finalizer, second.client_states)
  tf.nest.map_structure(
    np.testing.assert_array_equal, tf.nest.flatten(before), tf.nest.flatten(after)
  )


def test_order_of_clients_does_not_matter(model, clients):
  process = learning.build_fed_avg(model, sgd(0.1))
  results = []
  for order in ([0, 1, 2], [2, 0, 1]):
    data = [datasets(clients)[k] for k in order]
    output = process.next(process.initialize(), [()] * 3, data)
    results.append(process.get_model_weights(output.state).trainable)
  for a, b in zip(*results, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_model_weights_can_be_set(model):
  process = learning.build_fed_avg(model, sgd(0.1))
  state = process.initialize()
  weights = process.get_model_weights(state)
  doubled = tff.learning.models.ModelWeights(
    tuple(2 * np.asarray(w) for w in weights.trainable), weights.non_trainable
  )
  state = process.set_model_weights(state, doubled)
  for got, wanted in zip(
    process.get_client_model_weights(state, ()).trainable, doubled.trainable, strict=True
  ):
    np.testing.assert_array_equal(got, wanted)


def test_client_memory_forbids_a_standard_process(model):
  with pytest.raises(TypeError, match='has no client state'):
    learning.build_lbgm_fed_avg(model, sgd(0.1)).as_learning_process()
  shared = learning.build_shared_lbgm_fed_avg(model, sgd(0.1)).as_learning_process()
  assert isinstance(shared, tff.learning.templates.LearningProcess)


def test_refuses_bad_arguments(model):
  with pytest.raises(TypeError, match='`server_optimizer_fn` must be `Optimizer`'):
    learning.build_fed_avg(model, sgd(0.1), 1.0)
  with pytest.raises(TypeError, match='`codec` must be a `codecs.Codec`'):
    learning.build_compressed_fed_avg(model, sgd(0.1), codec=None)
  with pytest.raises(TypeError, match='as_weighted_aggregator'):
    process_lib.build_process(
      model, sgd(0.1), model_aggregator=tff.aggregators.UnweightedMeanFactory()
    )
  assert isinstance(
    aggregators.lift(aggregators.CodedMeanFactory(codecs.Identity())),
    aggregators.ClientStatefulAggregationFactory,
  )
