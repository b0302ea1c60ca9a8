import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import client_work


def sgd(rate):
  return tff.learning.optimizers.build_sgdm(rate)


def test_decay_by_hand():
  schedule = client_work.exponential_decay(sgd(0.1), 0.5)
  assert [float(schedule.factor(tf.constant(t))) for t in (0, 1, 3)] == [1, 0.5, 0.125]


def test_arguments_are_checked():
  with pytest.raises(TypeError, match='`optimizer` must be `Optimizer`'):
    client_work.RoundSchedule(0.1, lambda t: 1.0)
  with pytest.raises(TypeError, match='`factor` must be a function of the round, found 0.9'):
    client_work.RoundSchedule(sgd(0.1), 0.9)
  with pytest.raises(ValueError, match='`decay` must be above 0'):
    client_work.exponential_decay(sgd(0.1), 0)
  with pytest.raises(ValueError, match=r'`decay` must be in \[0, 1\], found 1.5'):
    client_work.exponential_decay(sgd(0.1), 1.5)
  with pytest.raises(ValueError, match='WithoutRate has no learning rate'):
    client_work.RoundSchedule(WithoutRate(), lambda t: 1.0)


class WithoutRate(tff.learning.optimizers.Optimizer):
  """Without hyper-parameters."""

  def initialize(self, specs):
    return ()

  def next(self, state, weights, gradients):
    return state, weights


def test_optimizers_of_clients_with_rates_of_their_own():
  for optimizer in (sgd(1.0), client_work.exponential_decay(sgd(1.0), 0.5)):
    assert client_work.ClientRates(optimizer).optimizer is optimizer
  with pytest.raises(TypeError, match='`optimizer` must be `Optimizer` or `RoundSchedule`'):
    client_work.ClientRates(0.1)
  with pytest.raises(ValueError, match='WithoutRate has no learning rate'):
    client_work.ClientRates(WithoutRate())
