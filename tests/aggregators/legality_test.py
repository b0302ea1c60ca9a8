import pytest
import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank import codecs


def private_mean():
  dp = tff.aggregators.DifferentiallyPrivateFactory.gaussian_fixed(1.0, 10.0, 1.0)
  return tff.aggregators.MeanFactory(value_sum_factory=dp)


SECURE = tff.learning.secure_aggregator  # Its sums are hidden in closures.


@pytest.mark.parametrize(
  'text, mean_factory, message',
  [
    ('look_back', SECURE, 'look_back does not work with secure aggregation .SecureSumFactory.'),
    ('cmfl(0.5, look_back)', SECURE, 'look_back does not work with secure aggregation'),
    ('top_k', SECURE, 'top_k does not work with secure aggregation.*must be decoded before'),
    ('error_feedback(top_k)', private_mean,
     'error_feedback is unsound with differential privacy .DifferentiallyPrivateFactory.'),
    ('look_back(error_feedback(top_k))', private_mean, 'error_feedback is unsound'),
  ],
)  # fmt: skip
def test_refuses_naming_the_two_parts(text, mean_factory, message):
  with pytest.raises(ValueError, match=message):
    aggregators.ClientStatefulCodedMeanFactory(codecs.parse(text), mean_factory())


@pytest.mark.parametrize(
  'text, mean_factory',
  [
    ('identity', SECURE),
    ('random_k', SECURE),
    ('top_k', private_mean),
    ('top_k', tff.learning.robust_aggregator),
    ('error_feedback(top_k)', tff.learning.robust_aggregator),
  ],
)
def test_lets_sound_stacks_be(text, mean_factory):
  aggregators.ClientStatefulCodedMeanFactory(codecs.parse(text), mean_factory())


def test_a_standard_factory_has_no_model_to_give():
  with pytest.raises(ValueError, match='gaia.* needs the weights that the client received'):
    aggregators.CodedMeanFactory(codecs.Gaia(accumulate=False))
