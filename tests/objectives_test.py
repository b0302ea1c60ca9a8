import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import objectives


def measured(metric, y, logits, pieces=2):
  """The metric after several batches."""
  for part in np.array_split(np.arange(len(y)), pieces):
    metric.update_state(tf.constant(y[part]), tf.constant(logits[part]))
  return metric.result().numpy()


def log_softmax(logits):
  shifted = logits - logits.max(-1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


PADDING, UNKNOWN, END = 0, 5, 6


@pytest.fixture
def tokens(rng):
  """Labels [4, 3] with every special token, and logits [4, 3, 7] that are right half the time."""
  y = np.int32([[1, 5, 0], [2, 3, 6], [4, 6, 0], [5, 1, 1]])
  logits = rng.normal(size=(4, 3, 7)).astype(np.float32)
  right = np.argwhere(np.arange(12).reshape(4, 3) % 2 == 0)
  for i, j in right:
    logits[i, j, y[i, j]] += 10
  return y, logits


@pytest.mark.parametrize(
  'name, ignored',
  [
    ('accuracy', (PADDING, UNKNOWN)),
    ('accuracy_with_out_of_vocabulary', (PADDING,)),
    ('accuracy_without_end', (PADDING, UNKNOWN, END)),
  ],
)
def test_token_accuracies(tokens, name, ignored):
  y, logits = tokens
  objective = objectives.next_token(PADDING, UNKNOWN, END)
  counts = ~np.isin(y, ignored)
  expected = (logits.argmax(-1) == y)[counts].mean()
  assert 0 < expected < 1
  np.testing.assert_allclose(measured(objective.metrics[name](), y, logits), expected, rtol=1e-6)


def test_token_loss_is_a_mean_over_tokens_without_padding(tokens):
  y, logits = tokens
  objective = objectives.next_token(PADDING, UNKNOWN, END)
  losses = -np.take_along_axis(log_softmax(logits), y[..., None], -1)[..., 0]
  expected = losses[y != PADDING].mean()
  np.testing.assert_allclose(objective.loss(y_true=y, y_pred=logits), expected, rtol=1e-5)
  np.testing.assert_allclose(
    measured(objective.metrics['loss'](), y, logits, 3), expected, rtol=1e-5
  )
  nothing = np.zeros_like(y)
  assert objective.loss(y_true=nothing, y_pred=logits).numpy() == 0


def test_without_special_tokens_there_are_two_metrics(tokens):
  objective = objectives.next_token(PADDING)
  assert list(objective.metrics) == ['loss', 'accuracy']
  y, logits = tokens
  expected = (logits.argmax(-1) == y)[y != PADDING].mean()
  np.testing.assert_allclose(measured(objective.metrics['accuracy'](), y, logits), expected)


def test_several_labels(rng):
  y = (rng.random((9, 8)) < 0.3).astype(np.float32)
  logits = rng.normal(size=(9, 8)).astype(np.float32)
  objective = objectives.MULTI_LABEL
  p = 1 / (1 + np.exp(-logits))
  entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p))
  np.testing.assert_allclose(
    objective.loss(y_true=y, y_pred=logits), entropy.mean(1).sum(), rtol=1e-5
  )
  np.testing.assert_allclose(
    measured(objective.metrics['loss'](), y, logits), entropy.mean(), rtol=1e-5
  )
  top = np.argsort(-logits, axis=1)[:, :5]
  hits = np.take_along_axis(y, top, 1).sum()
  np.testing.assert_allclose(
    measured(objective.metrics['accuracy'](), y, logits), hits / y.sum(), rtol=1e-6
  )
  np.testing.assert_allclose(
    measured(objective.metrics['precision'](), y, logits), y[p > 0.5].mean(), rtol=1e-6
  )


def test_several_labels_as_keras_measures_them(rng):
  y = (rng.random((9, 8)) < 0.3).astype(np.float32)
  logits = rng.normal(size=(9, 8)).astype(np.float32)
  p = 1 / (1 + np.exp(-logits))
  metrics = objectives.MULTI_LABEL.metrics
  for name, keras_metric in (
    ('accuracy', tf.keras.metrics.Recall(top_k=5)),
    ('precision', tf.keras.metrics.Precision()),
  ):
    expected = measured(keras_metric, y, p)
    np.testing.assert_allclose(measured(metrics[name](), y, logits), expected, rtol=1e-6)
  # Fewer classes than 5: all labels are found.
  assert measured(metrics['accuracy'](), y[:, :3], logits[:, :3]) == 1


def test_determination_of_numbers(rng):
  y, predicted = rng.normal(size=(2, 40, 3)).astype(np.float32)
  predicted = y + predicted / 3
  found = {
    name: measured(build(), y, predicted) for name, build in objectives.REGRESSION.metrics.items()
  }
  errors = (y - predicted) ** 2
  expected = dict(
    loss=errors.mean(),
    accuracy=1 - errors.sum() / ((y - y.mean()) ** 2).sum(),
    mean_absolute_error=np.abs(y - predicted).mean(),
  )
  assert list(found) == list(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5)
  np.testing.assert_allclose(
    objectives.REGRESSION.loss(y_true=y, y_pred=predicted), errors.mean(), rtol=1e-6
  )


def test_determination_of_equal_labels_and_of_none_is_zero():
  build = objectives.REGRESSION.metrics['accuracy']
  assert build().result() == 0
  assert measured(build(), np.ones((4, 1), np.float32), np.zeros((4, 1), np.float32)) == 0
  assert measured(build(), np.float32([[1], [2]]), np.float32([[2], [1]])) == -3


def test_main_metrics_are_described():
  described = [
    objectives.CLASSIFICATION.described(),
    objectives.MULTI_LABEL.described(),
    objectives.REGRESSION.described(),
  ]
  assert described == [
    dict(name='accuracy', unit='fraction'),
    dict(name='recall at 5', unit='fraction'),
    dict(name='R squared', unit=''),
  ]
