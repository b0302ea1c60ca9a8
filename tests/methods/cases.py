"""Processes that methods build, against those of `learning.build_*`, on a tiny model."""

import collections
import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import codecs
from tff_lowrank import layers
from tff_lowrank import learning
from tff_lowrank import methods
from tff_lowrank.analysis import replay

NUM_CLIENTS, SEED = 3, 5
FLOAT16 = codecs.Float16()
# Which draws at random, from the seed.
QSGD = codecs.QSGD()


def two_layers():
  """The first is of pFedPara's factors."""
  return tf.keras.Sequential([
    tf.keras.layers.InputLayer((linear.FEATURES,)),
    layers.FedParaDense(8, rank=1, personal=True),
    tf.keras.layers.Dense(linear.CLASSES),
  ])  # fmt: skip


@functools.cache
def model(keras_model_fn):
  tf.keras.utils.set_random_seed(1)
  return tff.learning.models.functional_model_from_keras(
    keras_model_fn(),
    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    collections.OrderedDict(
      x=tf.TensorSpec([None, linear.FEATURES]), y=tf.TensorSpec([None], tf.int32)
    ),
  )


def common(keras_model_fn=linear.keras_model):
  """The arguments that all builders take."""
  return dict(
    model_fn=model(keras_model_fn),
    client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.2),
    server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
    client_weighting=tff.learning.ClientWeighting.UNIFORM,
  )


def choice(record, uplink='identity', downlink='identity', client_optimizer='sgd', **own):
  """What was chosen for a run, with settings of the method's own."""
  settings = record.settings(**own)
  return methods.Choice(
    settings, codecs.parse(uplink), codecs.parse(downlink), client_optimizer, SEED
  )


def build(record, keras_model_fn=linear.keras_model, **chosen):
  """The process of a method; `chosen` is as for `choice`."""
  arguments = common(keras_model_fn)
  return record.build(
    methods.Parts(
      choice=choice(record, **chosen),
      model=arguments['model_fn'],
      keras_model_fn=keras_model_fn,
      client_optimizer=arguments['client_optimizer_fn'],
      server_optimizer=arguments['server_optimizer_fn'],
      client_weighting=arguments['client_weighting'],
      num_clients=NUM_CLIENTS,
    )
  )


def run(process, num_rounds=2):
  """The weights after each round, and each client's bits, by direction and kind."""
  rng = np.random.default_rng(0)
  data = [linear.dataset(*linear.examples(rng, count), 4) for count in (8, 12)]
  state, memory, weights, bits = process.initialize(), None, [], []
  memory = [process.initialize_client() for _ in data]
  for _ in range(num_rounds):
    output = process.next(state, memory, data)
    state, memory = output.state, output.client_states
    weights.append([np.asarray(w) for w in process.get_model_weights(state).trainable])
    bits.append(
      [{way: dict(report[way]) for way in ('uplink', 'downlink')} for report in output.reports]
    )
  return weights, bits


@functools.cache
def fed_avg():
  """What `run` gives of plain FedAvg."""
  return run(learning.build_fed_avg(**common()))


def assert_same_model(found, expected):
  """Two results of `run` have the same weights, to the bit."""
  for mine, theirs in zip(found[0], expected[0], strict=True):
    for a, b in zip(mine, theirs, strict=True):
      np.testing.assert_array_equal(a, b)


def assert_same(found, expected):
  """Besides, messages cost the same."""
  assert_same_model(found, expected)
  assert found[1] == expected[1]


def check_has_no_downlink(record, builder, **needed):
  """The record offers no codec down because its builder takes none."""
  assert not record.takes_downlink
  with pytest.raises(TypeError, match='downlink'):
    builder(**common(), downlink=FLOAT16, **needed)


def some_rounds():
  """Recorded rounds of two clients, one of which misses the second."""
  rng, before, found = np.random.default_rng(2), [np.zeros((3, 2), np.float32)], []
  for number in (1, 2, 3):
    clients = ('a', 'b') if number != 2 else ('a',)
    updates = {c: [1 + 0.1 * rng.normal(size=(3, 2)).astype(np.float32)] for c in clients}
    after = [before[0] - replay.weighted_mean(updates, dict(a=1.0, b=1.0))[0].astype(np.float32)]
    found.append(replay.Round(number, updates, {c: 1.0 for c in clients}, before, after))
    before = after
  return found


def assert_same_replay(found, expected):
  """All arrays of two replays are equal."""
  for mine, theirs in zip(found, expected, strict=True):
    np.testing.assert_array_equal(mine, theirs)
