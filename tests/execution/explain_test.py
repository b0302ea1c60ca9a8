import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.execution import cases
from tff_lowrank import execution


def test_says_what_was_lowered_and_compiled(rng, capsys):
  process, _, data = cases.federated_averaging(rng)
  with execution.create_local_context(compile='xla') as context:
    execution.explain(process.next)
    assert '; 0 compiled so far' in capsys.readouterr().out
    process.next(process.initialize(), data)
    execution.explain(process.next)
  text = capsys.readouterr().out
  assert 'lowered to a loop over the stacked batches' in text
  assert 'CPU:0: clients run in XLA programs, one after the other' in text
  assert '; 0 compiled' not in text
  with execution.create_local_context(compile='tensorflow') as context:
    execution.explain(process.next, context)
  assert "clients run in TensorFlow: compile='tensorflow'" in capsys.readouterr().out


def test_says_why_not(capsys):
  @tff.tensorflow.computation(tff.SequenceType(np.int64))
  def changed(data):
    return data.map(lambda x: x + 1).reduce(np.int64(0), lambda a, b: a + b)

  computation = tff.federated_computation(
    lambda x: tff.federated_sum(tff.federated_map(changed, x)),
    tff.FederatedType(tff.SequenceType(np.int64), tff.CLIENTS),
  )
  with execution.create_local_context():
    execution.explain(computation)
    text = capsys.readouterr().out
    assert 'its data set is made in the computation' in text
    assert 'clients run in TensorFlow: a data set that is made or changed inside' in text
    assert computation([tf.data.Dataset.range(3)]) == 6


def test_refuses_other_contexts():
  with execution.stock_context(), pytest.raises(TypeError, match='Expected a LocalContext'):
    execution.explain(cases.sum_of_all)
