import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import learning
from tff_lowrank.datasets import arrays
from tff_lowrank.simulation import evaluation


def test_metrics_are_those_of_numpy_over_several_batches(rng):
  model = linear.build_model(rng)
  x, y = linear.examples(rng, 2 * evaluation.BATCH_SIZE + 17)
  evaluate = evaluation.build_evaluation(
    model, arrays.Split(x, y), lambda b: collections.OrderedDict(x=b['x'] / 2, y=b['y'])
  )
  kernel, bias = model.initial_weights[0]
  logits = (x / 2) @ kernel + bias
  p = np.exp(logits - logits.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  got = evaluate(tff.learning.models.ModelWeights((kernel, bias), ()))
  np.testing.assert_allclose(got['loss'], -np.log(p[np.arange(len(y)), y]).mean(), rtol=1e-5)
  np.testing.assert_allclose(got['accuracy'], (p.argmax(1) == y).mean(), rtol=1e-6)


def test_large_test_sets_are_not_kept(rng, monkeypatch):
  """And have the same metrics."""
  model = linear.build_model(rng)
  x, y = linear.examples(rng, 25)
  kept = []
  cache = tf.data.Dataset.cache
  monkeypatch.setattr(tf.data.Dataset, 'cache', lambda self: kept.append(1) or cache(self))
  found = []
  # 25 examples of six floats and an int32 label.
  for limit in (25 * 28, 25 * 28 - 1):
    monkeypatch.setattr(evaluation, '_CACHED_BYTES', limit)
    evaluate = evaluation.build_evaluation(model, arrays.Split(x, y), lambda b: b, batch_size=4)
    weights = tff.learning.models.ModelWeights(*model.initial_weights)
    found.append([evaluate(weights), evaluate(weights)])
  assert kept == [1]
  assert found[0][0] == found[0][1] == found[1][0] == found[1][1]


def test_each_client_is_tested_with_its_own_model_on_its_own_examples(rng):
  model = linear.build_model(rng)
  x, y = linear.examples(rng, 40)
  parts = [np.arange(3), np.array([], np.int64), np.arange(3, 15), np.arange(15, 40)]
  test = arrays.partitioned(arrays.Split(x, y), parts)
  process = learning.build_personal_fed_avg(
    model, tff.learning.optimizers.build_sgdm(0.1), personal=[False, True]
  )
  biases = {c: rng.normal(size=3).astype(np.float32) for c in ('client_0', 'client_3')}

  def read(client_ids):
    start = process.initialize_client()
    work = start['work']
    return [
      dict(start, work=dict(work, personal=(biases.get(c, work['personal'][0]),)))
      for c in client_ids
    ]

  evaluate = evaluation.build_personal_evaluation(
    model, process, test, lambda b: collections.OrderedDict(x=b['x'] / 2, y=b['y'])
  )
  got = evaluate(process.initialize(), read)
  assert tuple(got) == evaluation.PERSONAL_METRICS
  kernel, bias = model.initial_weights[0]
  losses, accuracies, sizes = [], [], []
  for i in (0, 2, 3):
    part = parts[i]
    logits = (x[part] / 2) @ kernel + biases.get(f'client_{i}', bias)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    losses.append(-np.log(p[np.arange(len(part)), y[part]]).mean())
    accuracies.append((p.argmax(1) == y[part]).mean())
    sizes.append(len(part))
  np.testing.assert_allclose(got['personal_loss'], np.mean(losses), rtol=1e-5)
  np.testing.assert_allclose(got['personal_accuracy'], np.mean(accuracies), rtol=1e-6)
  np.testing.assert_allclose(
    got['personal_accuracy_by_examples'], np.average(accuracies, weights=sizes), rtol=1e-6
  )
  assert len(set(accuracies)) > 1


def test_after_training_is_the_accuracy_after_numpys_sgd(rng):
  model = linear.build_model(rng)
  x, y = linear.examples(rng, 120)
  parts = [np.arange(0, 20), np.arange(20, 60)]
  rows = [np.arange(60, 90), np.arange(90, 120)]
  split = arrays.Split(x, y)
  test, train = arrays.partitioned(split, parts), arrays.partitioned(split, rows)
  optimizer = tff.learning.optimizers.build_sgdm(0.5)
  process = learning.build_fed_avg(model, optimizer)

  def train_dataset(client_id):
    examples = train.examples(client_id)
    return linear.dataset(examples.x, examples.y, batch_size=8)

  evaluate = evaluation.build_personal_evaluation(
    model, process, test, lambda b: b, client_optimizer=optimizer, train_dataset=train_dataset
  )
  got = evaluate(process.initialize(), lambda ids: [()] * len(ids))
  accuracies = []
  for part, own in zip(parts, rows, strict=True):
    kernel, bias = linear.train(model.initial_weights[0], x[own], y[own], 8, 0.5)
    accuracies.append(((x[part] @ kernel + bias).argmax(1) == y[part]).mean())
  np.testing.assert_allclose(got[evaluation.TRAINED_ACCURACY], np.mean(accuracies), rtol=1e-6)
  assert got[evaluation.TRAINED_ACCURACY] != got['personal_accuracy']


def test_without_personal_weights_it_is_the_global_models_accuracy(rng):
  model = linear.build_model(rng)
  split = arrays.Split(*linear.examples(rng, 20))
  test = arrays.partitioned(split, [np.arange(20)])
  process = learning.build_fed_avg(model, tff.learning.optimizers.build_sgdm(0.1))
  evaluate = evaluation.build_personal_evaluation(model, process, test, lambda b: b)
  central = evaluation.build_evaluation(model, split, lambda b: b)
  state = process.initialize()
  personal = evaluate(state, lambda ids: [()] * len(ids))
  assert personal['personal_accuracy'] == central(process.get_model_weights(state))['accuracy']


def test_somebody_must_have_test_examples(rng):
  model = linear.build_model(rng)
  empty = arrays.partitioned(arrays.Split(*linear.examples(rng, 2)), [np.array([], np.int64)])
  process = learning.build_fed_avg(model, tff.learning.optimizers.build_sgdm(0.1))
  with pytest.raises(ValueError, match='None of the 1 clients has test examples'):
    evaluation.build_personal_evaluation(model, process, empty, lambda b: b)
