import pickle

import numpy as np
import pytest
import tensorflow as tf

from tests.execution import cases
from tff_lowrank import execution
from tff_lowrank.execution import client_datasets

constructed = []


def numbers(factor, *, offset):
  """Numbers that follow from a client's id and the round."""
  constructed.append(factor)

  def open_client(client_id, round_num):
    first = offset + factor * int(client_id) + round_num
    return tf.data.Dataset.range(first, first + 3)

  return open_client


def values_of(dataset):
  return [int(x) for x in dataset]


def test_a_description_opens_what_the_constructor_s_function_gives():
  source = execution.DataSource(numbers, 100, offset=7)
  description = source.describe('2', 5, num_steps=3)
  assert (description.client_id, description.round_num, description.num_steps) == ('2', 5, 3)
  constructed.clear()
  assert values_of(description.open()) == [212, 213, 214]
  assert values_of(source.describe('0', 1).open()) == [8, 9, 10]
  assert constructed == [100]  # Once in a process.


def test_a_copy_in_another_process_is_known_as_the_same_and_constructs_anew():
  source = execution.DataSource(numbers, 10, offset=0)
  source.open('1', 1)
  copy = pickle.loads(pickle.dumps(source.describe('3', 2)))
  assert copy.source.identity == source.identity
  assert execution.DataSource(numbers, 10, offset=0).identity != source.identity
  constructed.clear()
  assert values_of(copy.open()) == [32, 33, 34]
  assert constructed == [10]


def test_what_is_not_a_data_set_is_refused():
  source = execution.DataSource(lambda: lambda client_id, round_num: [1, 2])
  with pytest.raises(TypeError, match="data of client 'x' must give a `tf.data.Dataset`.*list"):
    source.describe('x', 1).open()


def test_an_empty_data_set_is_refused_where_that_is_asked_for():
  source = execution.DataSource(lambda: lambda c, r: tf.data.Dataset.range(0))
  assert values_of(source.describe('x', 1).open()) == []
  with pytest.raises(client_datasets.NoExamplesError, match="Client 'x' has no examples"):
    client_datasets.ClientDataset(source, 'x', 1, is_empty_refused=True).open()


def test_the_local_context_takes_descriptions_in_the_place_of_data_sets():
  source = execution.DataSource(numbers, 100, offset=0)
  with execution.create_local_context():
    total = cases.sum_of_all([source.describe('1', 0), source.describe('2', 0)])
    assert total == 100 + 101 + 102 + 200 + 201 + 202
    wrong = execution.DataSource(lambda: lambda c, r: tf.data.Dataset.from_tensors(np.float32(1)))
    with pytest.raises(TypeError, match='Expected a data set of type int64'):
      cases.sum_of_all([wrong.describe('1', 0)])
