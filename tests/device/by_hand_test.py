"""Tests of `benchmarks.device.by_hand`: the same training in Keras, step by step, in float64."""

import jax
from jax import experimental
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import workloads
from benchmarks.device import by_hand
from tff_lowrank import models

CLIENTS, STEPS, BATCH = 3, 2, 4


def keras_model(name):
  if name in 'ABD':
    return workloads.keras_model(name)
  if name == 'vgg':
    return models.build_vgg16(width_multiplier=0.25)
  if name == 'fedpara':
    return models.build_cnn(family='fedpara', gamma=0.3)
  return models.build_cnn()


def case_of(name, model):
  example = (7,) if name == 'D' else model.input_shape[1:]
  weights = [
    dict(name=v.name, shape=v.shape.as_list(), stddev=max(float(np.std(v)), 0.01))
    for v in model.trainable_variables
  ]
  return dict(name=name, shape=(CLIENTS, STEPS, BATCH, *example), weights=weights)


def keras_updates(model, weights, x, y, frozen=None):
  """Each client's update: its weights before less those after."""
  loss_fn = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  variables, updates = model.trainable_variables, []
  for of_client in range(CLIENTS):
    for variable, weight in zip(variables, weights, strict=True):
      variable.assign(weight)
    for step in range(STEPS):
      with tf.GradientTape() as tape:
        loss = loss_fn(y[of_client, step], model(x[of_client, step], training=True))
      gradients = tape.gradient(loss, variables)
      for i, (variable, gradient) in enumerate(zip(variables, gradients, strict=True)):
        change = by_hand.RATE * tf.convert_to_tensor(gradient).numpy()
        variable.assign_sub(change if frozen is None else np.where(frozen[i], 0, change))
    updates.append([w - v.numpy() for w, v in zip(weights, variables, strict=True)])
  return updates


def assert_near(got, want):
  for a, b in zip(got, want, strict=True):
    assert np.linalg.norm(np.asarray(a) - b) <= 1e-8 * np.linalg.norm(b) + 1e-12


def wide(arrays):
  """Floats as float64."""
  widen = lambda a: a.astype(np.float64) if a.dtype == np.float32 else a  # noqa: E731
  return jax.tree_util.tree_map(widen, arrays)


def changes(training):
  """What a round takes off the weights, and its second result."""
  with experimental.enable_x64():
    after, memory = jax.jit(training.round)(*training.arguments)
  return [w - np.asarray(a) for w, a in zip(training.arguments[0], after, strict=True)], memory


@pytest.fixture(autouse=True)
def _float64():
  tf.keras.utils.set_random_seed(0)
  tf.keras.backend.set_floatx('float64')
  yield
  tf.keras.backend.set_floatx('float32')


def build(case, **how):
  training = by_hand.build(case, **how)
  return by_hand.Training(training.round, wide(training.arguments))


@pytest.mark.parametrize('name', ['A', 'B', 'D', 'cnn', 'fedpara', 'vgg'])
def test_is_federated_averaging(name):
  model = keras_model(name)
  case = case_of(name, model)
  training = build(case)
  updates = keras_updates(model, *training.arguments)
  mean = [np.mean(u, axis=0) for u in zip(*updates, strict=True)]
  assert_near(changes(training)[0], mean)


@pytest.mark.parametrize('how', [dict(in_turn=True), dict(patches=False)], ids=str)
@pytest.mark.parametrize('name', ['A', 'lbgm', 'apf'])
def test_other_ways_give_the_same(name, how):
  case = case_of(name, keras_model(name))
  want, want_memory = changes(build(case))
  got, memory = changes(build(case, **how))
  assert_near(got, want)
  assert_near(jax.tree_util.tree_leaves(memory), jax.tree_util.tree_leaves(want_memory))


def test_bfloat16_is_near_and_not_the_same():
  case = case_of('B', keras_model('B'))
  want, _ = changes(build(case))
  got, _ = changes(build(case, dtype='bfloat16'))
  off = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(got, want, strict=True)]
  assert 1e-4 < max(off) < 0.1


def test_lbgm_recycles():
  model = keras_model('lbgm')
  training = build(case_of('lbgm', model))
  weights, x, y, memory = training.arguments
  updates = keras_updates(model, weights, x, y)
  # Half of the look-back vectors are near the update, so that both branches are met.
  for client, of_client in enumerate(updates):
    for i, update in enumerate(of_client):
      memory[i][client] *= 0.01 * (i % 2)
      memory[i][client] += 3 * update if (i + client) % 2 else 0.01 * memory[i][client]
  sent, kept, recycled = [], [], 0
  for client, of_client in enumerate(updates):
    sent.append([])
    kept.append([])
    for update, last in zip(of_client, (m[client] for m in memory), strict=True):
      norm = np.vdot(last, last)
      rho = np.vdot(update, last) / norm if norm else 0
      is_near = np.sum((update - rho * last) ** 2) <= 0.4 * np.sum(update**2)
      recycled += bool(is_near)
      sent[-1].append(rho * last if is_near else update)
      kept[-1].append(last if is_near else update)
  assert 0 < recycled < CLIENTS * len(memory)
  got, after = changes(training)
  assert_near(got, [np.mean(s, axis=0) for s in zip(*sent, strict=True)])
  assert_near(after, [np.stack(k) for k in zip(*kept, strict=True)])


def test_apf_pins():
  model = keras_model('apf')
  training = build(case_of('apf', model))
  frozen = training.arguments[-1]
  assert 0.2 < np.mean(np.concatenate([f.ravel() for f in frozen])) < 0.4
  updates = keras_updates(model, *training.arguments)
  got, _ = changes(training)
  assert_near(got, [np.mean(u, axis=0) for u in zip(*updates, strict=True)])
  assert all(np.all(g[f] == 0) for g, f in zip(got, frozen, strict=True))
