import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.simulation import metrics


def test_nested_metrics_become_a_row():
  nested = collections.OrderedDict(
    a=1, b=collections.OrderedDict(c=np.float32(0.5), d=np.array([1, 2])), e=(), f=[True]
  )
  assert dict(metrics.flatten(nested)) == {'a': 1, 'b/c': 0.5, 'b/d/0': 1, 'b/d/1': 2, 'f/0': True}


@pytest.mark.parametrize('value', ['0.5', b'1', None, 1j, np.array(['a', 'b']), tf.constant('x')])
def test_refuses_what_is_no_number(value):
  with pytest.raises(TypeError, match="The metric 'a/b.*' must be a single number"):
    metrics.flatten(dict(a=dict(b=value)))


@pytest.mark.parametrize('dtype', [tf.float16, tf.bfloat16, tf.float32, tf.float64])
@pytest.mark.parametrize('value', [0.5, np.inf, np.nan])
def test_takes_any_float(dtype, value):
  np.testing.assert_array_equal(metrics.number('loss', tf.constant(value, dtype)), value)


def test_zeros_have_the_names_of_the_metrics():
  metrics_type = tff.to_type(
    collections.OrderedDict(b=np.float32, a=collections.OrderedDict(c=(np.int32, (2,))), d=())
  )
  zeros = metrics.zeros(metrics_type)
  assert metrics.flatten(zeros) == collections.OrderedDict([('b', 0), ('a/c/0', 0), ('a/c/1', 0)])
  assert list(metrics.flatten(zeros)) == ['b', 'a/c/0', 'a/c/1']
