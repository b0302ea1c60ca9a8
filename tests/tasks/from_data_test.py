"""Tasks of a user's own examples: of every kind that they may be."""

import collections

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import learning
from tff_lowrank import objectives
from tff_lowrank import tasks
from tff_lowrank.simulation import batches
from tff_lowrank.simulation import evaluation

dense = tf.keras.layers.Dense
CENTERS = np.array([[2.0, 0, 0, 1], [-2, 1, 0, 0], [0, -2, 2, 0]])


def examples(count, seed=0):
  """Three classes that a linear model can tell apart. x: float64 [count, 4], y: int64 [count]."""
  rng = np.random.default_rng(seed)
  y = np.arange(count) % 3
  return CENTERS[y] + rng.normal(size=(count, 4)) / 4, y


def network(outputs=3, inputs=4, **last):
  return tf.keras.Sequential([tf.keras.Input((inputs,)), dense(8, 'relu'), dense(outputs, **last)])


def of_arrays(num_clients=3):
  return {k: examples(10 + k, k) for k in range(num_clients)}


class ListClientData(tff.simulation.datasets.ClientData):
  """Client data that notes which clients are read."""

  def __init__(self, data):
    self.data, self.read = {str(k): v for k, v in data.items()}, []

  @property
  def client_ids(self):
    return list(self.data)

  @property
  def serializable_dataset_fn(self):
    raise NotImplementedError

  @property
  def element_type_structure(self):
    raise NotImplementedError

  def create_tf_dataset_for_client(self, client_id):
    self.read.append(client_id)
    return tf.data.Dataset.from_tensor_slices(self.data[client_id])


def frame(by_client, label=lambda y: y):
  parts = []
  for client_id, (x, y) in by_client.items():
    part = pd.DataFrame(x, columns=list('abcd'))
    part.insert(1, 'who', client_id)
    part['what'] = label(y)
    parts.append(part)
  return pd.concat(parts, ignore_index=True)


FRAME = dict(client_column='who', label_column='what')


def trained(task, rounds=2, rate=0.3):
  model = task.build_model(1)
  process = learning.build_lbgm_fed_avg(model, tff.learning.optimizers.build_sgdm(rate))
  evaluate = evaluation.build_evaluation(model, task.test, task.preprocess, task.eval_batch_size)
  state, clients = process.initialize(), task.train.client_ids
  memory = [process.initialize_client() for _ in clients]
  before = evaluate(process.get_model_weights(state))
  cut = batches.ClientBatches(3, 5, 1)
  for number in range(1, rounds + 1):
    data = [cut.dataset(task.train, c, number, task.preprocess) for c in clients]
    output = process.next(state, memory, data)
    state, memory = output.state, output.client_states
  return before, evaluate(process.get_model_weights(state))


@pytest.mark.parametrize(
  'train, test, options',
  [
    (of_arrays(), examples(30, 9), {}),
    (ListClientData(of_arrays()), ListClientData(of_arrays()), {}),
    (frame(of_arrays()), frame(of_arrays()), FRAME),
  ],
  ids=['arrays', 'client_data', 'frame'],
)
def test_two_rounds(train, test, options):
  task = tasks.from_client_data(train, test, network, **options)
  before, after = trained(task)
  assert after['loss'] < before['loss'] and after['accuracy'] > 0.9


def test_all_kinds_hold_the_same_examples():
  expected = of_arrays()
  kinds = [
    (expected, {}),
    ({k: dict(pixels=x, label=y) for k, (x, y) in expected.items()}, {}),
    ({k: dict(a=x, b=y, c=y) for k, (x, y) in expected.items()}, dict(x_key='a', label_key='b')),
    ({k: dict(y=x, x=y) for k, (x, y) in expected.items()}, dict(x_key='y', label_key='x')),
    (ListClientData(expected), {}),
    (ListClientData({k: dict(pixels=x, target=y) for k, (x, y) in expected.items()}), {}),
    (frame(expected), FRAME),
  ]
  for train, options in kinds:
    task = tasks.from_client_data(train, train, network, **options)
    assert task.train.client_ids == task.client_test.client_ids == ['0', '1', '2']
    for k, (x, y) in expected.items():
      for found in (task.train.examples(str(k)), task.client_test.examples(str(k))):
        np.testing.assert_array_equal(found.x, x.astype(np.float32))
        np.testing.assert_array_equal(found.y, y)
        assert found.x.dtype == np.float32 and found.y.dtype == np.int32
      assert task.train.num_examples(str(k)) == len(y)
    np.testing.assert_array_equal(task.test.y, np.concatenate([y for _, y in expected.values()]))
    # As TFF has it, too.
    (element,) = task.train.create_tf_dataset_for_client('1').take(1)
    np.testing.assert_array_equal(element['x'], np.float32(expected[1][0][0]))


def test_client_data_is_read_a_client_at_a_time():
  data = ListClientData(of_arrays(20))
  task = tasks.from_client_data(data, examples(5), network)
  assert data.read == ['0']
  task.train.examples('7')
  assert data.read == ['0', '7']
  with pytest.raises(ValueError, match="no client 'x' among 20"):
    task.train.examples('x')


def test_client_data_of_tff():
  data = tff.simulation.datasets.emnist.get_synthetic()

  def build():
    images = tf.keras.layers.Flatten(input_shape=(28, 28))
    return tf.keras.Sequential([images, dense(10)])

  task = tasks.from_client_data(data, data, build, name='tff')
  assert task.train.client_ids == sorted(data.client_ids)
  client = task.train.client_ids[0]
  for found, element in zip(
    task.train.examples(client).x, data.create_tf_dataset_for_client(client), strict=True
  ):
    np.testing.assert_array_equal(found, element['pixels'])
  converted = tasks.prepare(task, seed=1, model_family='low_rank', gamma=0.1)
  assert sum(w.size for w in converted.build_model(1).initial_weights[0]) < 784 * 10


def test_central_test_sets():
  x, y = examples(11, 5)
  dataset = tf.data.Dataset.from_tensor_slices((x, y))
  named = tf.data.Dataset.from_tensor_slices(collections.OrderedDict(label=y, z=x))
  for test in ((x, y), dict(x=x, label=y), dict(x=list(x), y=list(y)), dataset, named):
    task = tasks.from_client_data(of_arrays(), test, network)
    np.testing.assert_array_equal(task.test.x, x.astype(np.float32))
    np.testing.assert_array_equal(task.test.y, y)
    assert task.client_test is None
  central = frame({0: (x, y)}).drop(columns='who')
  task = tasks.from_client_data(
    frame(of_arrays()), central[central.columns[::-1]], network, **FRAME
  )
  np.testing.assert_array_equal(task.test.x, x.astype(np.float32))
  task = tasks.from_client_data(frame(of_arrays()), (x, y), network, **FRAME)
  np.testing.assert_array_equal(task.test.y, y)


def test_which_clients_have_test_examples_of_their_own():
  train = of_arrays(3)
  some = {2: train[2], 0: train[0]}
  task = tasks.from_client_data(train, some, network)
  assert [task.client_test.num_examples(c) for c in '012'] == [10, 0, 12]
  assert len(task.test.y) == 22 and task.client_test.client_ids == ['0', '1', '2']
  assert task.client_test.examples('1').x.shape == (0, 4)
  strangers = tasks.from_client_data(train, {5: train[1]}, network)
  assert strangers.client_test is None and len(strangers.test.y) == 11
  given = tasks.from_client_data(train, {5: train[1]}, network, client_test=some)
  assert len(given.test.y) == 11 and given.client_test.num_examples('2') == 12
  with pytest.raises(ValueError, match="`client_test` must have clients of `train`, found '5'"):
    tasks.from_client_data(train, some, network, client_test={5: train[1]})
  # And so they have after the options that every task has.
  chosen = tasks.prepare(task, num_clients=2, seed=1)
  assert chosen.client_test.client_ids == chosen.train.client_ids


def test_clients_without_examples_are_left_out():
  none = (np.zeros((0, 4)), np.zeros(0, np.int64))
  task = tasks.from_client_data({'a': examples(4), 'b': none}, examples(4), network)
  assert task.train.client_ids == ['a']
  # Those that are not read at once stay, with nothing to learn from.
  lazy = tasks.from_client_data(ListClientData({'a': none, 'b': examples(4)}), examples(4), network)
  assert [lazy.train.num_examples(c) for c in 'ab'] == [0, 4]
  for train in ({}, {'a': none}, ListClientData({'a': none})):
    with pytest.raises(ValueError, match='`train` must have a client with examples, found none'):
      tasks.from_client_data(train, examples(4), network)
  with pytest.raises(ValueError, match='`test` must have examples, found none'):
    tasks.from_client_data({'a': examples(4)}, none, network)


def test_labels_of_data_frames_become_classes_in_sorted_order():
  names = np.array(['rain', 'sun', 'fog'])
  train, test = (frame(of_arrays(n), lambda y: names[y]) for n in (3, 2))
  categorical = train.astype(dict(what='category'))
  for given in (train, categorical, train.astype(dict(what='string'))):
    task = tasks.from_client_data(given, test, network, **FRAME)
    order = np.array([1, 2, 0])  # fog, rain, sun
    np.testing.assert_array_equal(task.train.examples('0').y, order[of_arrays()[0][1]])
    np.testing.assert_array_equal(task.test.y[:10], order[of_arrays()[0][1]])
  numbers = frame(of_arrays(), lambda y: 10 * y).astype(dict(what='category'))
  task = tasks.from_client_data(numbers, numbers, network, **FRAME)
  np.testing.assert_array_equal(task.train.examples('1').y, of_arrays()[1][1])
  test.loc[3, 'what'] = 'hail'
  with pytest.raises(
    ValueError, match="must have only classes of the training examples, found 'hail'"
  ):
    tasks.from_client_data(train, test, network, **FRAME)


def test_columns_of_any_numbers():
  given = frame(of_arrays())
  given['a'] = given['a'] > 0
  given['b'] = (10 * given['b']).round().astype('Int64')
  given['what'] = given['what'].astype('Int8')
  task = tasks.from_client_data(given, given, network, **FRAME)
  rows = given[given['who'] == 1]
  np.testing.assert_array_equal(
    task.train.examples('1').x, np.stack([rows[c].to_numpy(np.float32) for c in 'abcd'], 1)
  )


def test_other_types_of_examples_and_labels():
  words = np.array([['tea', 'a'], ['no', 'bc']])
  for y in ([0, 1], [[0], [1]], [False, True], np.uint8([0, 1])):
    task = tasks.from_client_data(
      {'a': (words, y)},
      (words, y),
      lambda: network(2, 2),
      preprocess=lambda batch: collections.OrderedDict(
        x=tf.cast(tf.strings.length(batch['x']), tf.float32), y=batch['y']
      ),
    )
    found = task.train.examples('a')
    assert found.x.tolist() == [[b'tea', b'a'], [b'no', b'bc']]
    assert found.y.tolist() == [0, 1] and found.y.dtype == np.int32
    assert task.build_model(1).input_spec['x'].dtype == tf.float32


def test_regression_and_several_labels():
  x, _ = examples(30)
  y = x @ [1.0, 2, 0, -1] / 3
  data = {'a': (x[:20], y[:20]), 'b': (x[20:], y[20:])}
  task = tasks.from_client_data(data, data, lambda: network(1), objective=objectives.REGRESSION)
  assert task.train.examples('a').y.shape == (20, 1)
  before, after = trained(task, 6, rate=0.1)
  assert before['accuracy'] < after['accuracy'] and after['accuracy'] > 0.8
  many = {'a': (x, np.arange(90).reshape(30, 3) % 2)}
  task = tasks.from_client_data(many, many, network, objective=objectives.MULTI_LABEL)
  assert task.test.y.dtype == np.float32
  with pytest.raises(ValueError, match=r'output of shape \(None, 2\), but the labels have shape'):
    tasks.from_client_data(many, many, lambda: network(2), objective=objectives.MULTI_LABEL)


def changed(**columns):
  return frame(of_arrays()).assign(**columns)


X, Y = examples(6)


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(train={'a': (X, Y - 1)}), "client 'a': labels: expected integers from 0 .* found -1"),
    (dict(test=(X, Y / 2)), r"the same type, found x .* y \['int32'\] and x .* y \['float32'\]"),
    (dict(train={'a': (X, Y / 2)}, test=(X, Y / 2)), 'found float32; .* objectives.REGRESSION'),
    (dict(train={'a': (X, Y.astype(str))}), "such as b'0'; convert them to classes with"),
    (dict(train={'a': (X, Y[:-1])}), r'shape \[6, 4\] and labels of shape \[5\]'),
    (dict(train={'a': ([[1], [1, 2]], [0, 1])}), "client 'a': examples must be one array"),
    (dict(train={'a': (X, Y), 'b': (X[:, :3], Y)}), "of client 'a' and .* of client 'b'"),
    (dict(train={1: (X, Y), '1': (X, Y)}), "Two clients have the id '1': 1 and '1'"),
    (dict(train={'a': dict(u=X, v=Y)}), r"entries \['u', 'v'\]; set `x_key`"),
    (dict(train={'a': dict(u=X, v=Y)}, x_key='w'), "expected entries 'w' and None, found"),
    (dict(train=ListClientData({'a': (X, Y, Y)})), r"client 'a': elements must be `\(x, y\)`"),
    (dict(train=ListClientData({'a': ((X, X), Y)})), 'must be one tensor each'),
    (dict(train={'a': (X, Y + 1)}), 'but labels up to 3 need a logit for each of 4 classes'),
    (dict(test=(X, Y + 1)), 'but labels up to 3 need a logit'),
    (dict(test=(X[:, None], Y)), r"must have the same type, found x \['float32', 4\], y .* 1, 4\]"),
    (dict(test=tf.data.Dataset.from_tensor_slices((X, Y)).batch(3)), 'have the same type, found'),
    (dict(train=frame(of_arrays())), "needs `client_column` and `label_column`, found None"),
    (dict(train=changed(), **FRAME | dict(label_column='y')), "data frame has no column 'y'; its"),
    (dict(train=changed(a='tall'), **FRAME), "'a' must have numbers, found object; remove it"),
    (dict(train=changed(b=np.nan), **FRAME), "'b' must have finite numbers"),
    (dict(train=changed(who=[None] + ['k'] * 32), **FRAME), "'who' must have a value in"),
    (dict(train=changed(what=[np.nan] + [1] * 32), **FRAME), "'what' must have a value in every"),
    (dict(train=changed(), test=changed().drop(columns='a'), **FRAME), "no column 'a'; its"),
    (dict(build=lambda: network(activation='softmax')), "ends in a softmax, in .*logits"),
    (dict(build=lambda: network(2)), r'output of shape \(None, 2\), but labels up to 2 need'),
    (dict(build=lambda: network(inputs=5)), r'takes input of shape \(None, 5\)'),
    (dict(build=lambda: tf.keras.Sequential([dense(3)])), 'does not know the shape of its input'),
  ],
)  # fmt: skip
def test_examples_and_models_that_do_not_fit_are_refused(given, message):
  given = dict(train={'a': (X, Y)}, test=(X, Y), build=network) | given
  train, test, build = (given.pop(name) for name in ('train', 'test', 'build'))
  with pytest.raises(ValueError, match=message):
    tasks.from_client_data(train, test, build, **given)


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(train=(X, Y)), '`train` must be a `ClientData` of TFF, a mapping .* found tuple'),
    (dict(train=dict(x=X, y=Y)), '`train` must be a `ClientData` of TFF, a mapping .* found dict'),
    (dict(test=X), '`test` must be examples by client as `train`, arrays .* found ndarray'),
    (dict(test=frame(of_arrays())), '`test` must not be a data frame if `train` is not'),
    (dict(build=network()), 'must be a function that builds a Keras model, found Sequential'),
    (dict(build=lambda: 3), r'`keras_model_fn\(\)` must be `Model`, found 3'),
  ],
)
def test_other_kinds_are_refused(given, message):
  given = dict(train={'a': (X, Y)}, test=(X, Y), build=network) | given
  with pytest.raises(TypeError, match=message):
    tasks.from_client_data(given['train'], given['test'], given['build'])
