"""Objectives of tasks: losses and metrics of model outputs, mostly logits.

The metrics of every objective start with `loss` and `accuracy`. The latter is the task's main
metric, whatever its usual name.
"""

import collections
from collections.abc import Callable, Sequence
import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Objective:
  """A loss and metrics.

  loss: the loss of a batch.
  metrics: name -> function that builds a metric; `loss` and `accuracy` first.
  classes: whether labels are classes (integers from 0 up), or else float32 [batch, outputs].
  main: the usual name of the metric called `accuracy`, shown to users and in metrics.csv.
  is_fraction: whether this metric is from 0 to 1.
  from_logits: whether the loss takes logits, so a model must not end in a softmax or sigmoid.
  """

  loss: tf.keras.losses.Loss
  metrics: collections.OrderedDict[str, Callable[[], tf.keras.metrics.Metric]]
  classes: bool = True
  from_logits: bool = True
  main: str = 'accuracy'
  is_fraction: bool = True

  def described(self) -> dict[str, str]:
    """Name and unit of the main metric, for reports."""
    return dict(name=self.main, unit='fraction' if self.is_fraction else '')


CLASSIFICATION = Objective(
  loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
  metrics=collections.OrderedDict(
    loss=lambda: tf.keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
    accuracy=tf.keras.metrics.SparseCategoricalAccuracy,
  ),
)


def _is_none_of(y_true: tf.Tensor, tokens: Sequence[int]) -> tf.Tensor:
  """0 where a token is one of `tokens`, else 1: float32 of the shape of `y_true`."""
  counts = tf.ones_like(y_true, tf.bool)
  for token in tokens:
    counts &= tf.not_equal(y_true, tf.cast(token, y_true.dtype))
  return tf.cast(counts, tf.float32)


def _cross_entropy(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
  return tf.nn.sparse_softmax_cross_entropy_with_logits(y_true, y_pred)


def _is_correct(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
  return tf.cast(tf.equal(y_true, tf.argmax(y_pred, -1, y_true.dtype)), tf.float32)


class _TokenLoss(tf.keras.losses.Loss):
  """Mean cross-entropy of a batch's tokens without padding; 0 if there are none."""

  def __init__(self, padding: int):
    super().__init__(name='token_loss')
    self._padding = padding

  def __call__(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None) -> tf.Tensor:
    del sample_weight
    counts = _is_none_of(y_true, [self._padding])
    total = tf.reduce_sum(counts * _cross_entropy(y_true, y_pred))
    return tf.math.divide_no_nan(total, tf.reduce_sum(counts))


class _TokenMean(tf.keras.metrics.Mean):
  """The mean of `measure` over tokens, except those that are `ignored`."""

  def __init__(self, measure: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], ignored: Sequence[int]):
    super().__init__()
    self._measure, self._ignored = measure, ignored

  def update_state(
    self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None
  ) -> tf.Operation:
    del sample_weight
    return super().update_state(self._measure(y_true, y_pred), _is_none_of(y_true, self._ignored))


def next_token(
  padding: int, out_of_vocabulary: int | None = None, end: int | None = None
) -> Objective:
  """Cross-entropy of the next token; logits [batch, time, num_tokens], labels [batch, time].

  TFF's baseline tasks mask by the input, and so count the padding after the end of a sentence.
  Here labels that are padding are never counted.

  Args:
    padding: The padding token, never counted.
    out_of_vocabulary: If given, this token is not counted in `accuracy`, but in
      `accuracy_with_out_of_vocabulary`.
    end: The token at the end of a sentence; if given, `accuracy_without_end` counts neither it nor
      `out_of_vocabulary`.
  """

  def mean(measure: Callable, *ignored: int | None) -> Callable[[], tf.keras.metrics.Metric]:
    tokens = [token for token in ignored if token is not None]
    return lambda: _TokenMean(measure, tokens)

  metrics = collections.OrderedDict(
    loss=mean(_cross_entropy, padding), accuracy=mean(_is_correct, padding, out_of_vocabulary)
  )
  if out_of_vocabulary is not None:
    metrics['accuracy_with_out_of_vocabulary'] = mean(_is_correct, padding)
  if end is not None:
    metrics['accuracy_without_end'] = mean(_is_correct, padding, out_of_vocabulary, end)
  return Objective(_TokenLoss(padding), metrics)


class _RecallAt(tf.keras.metrics.Mean):
  """The fraction of all labels that are among the `k` largest logits of their example."""

  def __init__(self, k: int):
    super().__init__()
    self._k = k

  def update_state(
    self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None
  ) -> tf.Operation:
    del sample_weight
    num_classes = y_pred.shape[-1]
    chosen = tf.math.top_k(y_pred, min(self._k, num_classes)).indices
    is_chosen = tf.reduce_sum(tf.one_hot(chosen, num_classes), -2)
    return super().update_state(is_chosen, y_true)


class _Precision(tf.keras.metrics.Mean):
  """The fraction of correct labels among those with a predicted probability above one half."""

  def update_state(
    self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None
  ) -> tf.Operation:
    del sample_weight
    return super().update_state(y_true, tf.cast(y_pred > 0, tf.float32))


# Several labels per example; logits and labels [batch, num_classes]. The loss is the mean over
# classes, summed over the batch; `accuracy` is the recall at 5, as in TFF's baseline task.
MULTI_LABEL = Objective(
  loss=tf.keras.losses.BinaryCrossentropy(
    from_logits=True, reduction=tf.keras.losses.Reduction.SUM
  ),
  metrics=collections.OrderedDict(
    loss=lambda: tf.keras.metrics.BinaryCrossentropy(from_logits=True),
    accuracy=lambda: _RecallAt(5),
    precision=_Precision,
  ),
  classes=False,
  main='recall at 5',
)


class _DeterminationCoefficient(tf.keras.metrics.Metric):
  """R^2: 1 minus the ratio of the sums of squared errors and of squared deviations of labels.

  For all outputs together; 0 if all labels are equal. The sums are float32: labels whose mean is
  far larger than their deviation lose digits.
  """

  def __init__(self) -> None:
    super().__init__()
    names = ('count', 'total', 'squares', 'errors')
    self._sums = {name: self.add_weight(name, initializer='zeros') for name in names}

  def update_state(
    self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None
  ) -> tf.Operation:
    del sample_weight
    found = dict(
      count=tf.cast(tf.size(y_true), tf.float32),
      total=tf.reduce_sum(y_true),
      squares=tf.reduce_sum(y_true**2),
      errors=tf.reduce_sum((y_true - y_pred) ** 2),
    )
    return tf.group(*(self._sums[name].assign_add(value) for name, value in found.items()))

  def result(self) -> tf.Tensor:
    sums = self._sums
    mean = tf.math.divide_no_nan(sums['total'], sums['count'])
    deviations = sums['squares'] - sums['count'] * mean**2
    unexplained = tf.math.divide_no_nan(tf.convert_to_tensor(sums['errors']), deviations)
    return tf.where(deviations > 0, 1 - unexplained, 0.0)


# Regression; predictions and labels [batch, outputs], which should have about mean 0 and standard
# deviation 1. `accuracy` is R^2: at most 1, and below 0 for predictions worse than the labels'
# mean. It is not meaningful for a client with few examples.
REGRESSION = Objective(
  loss=tf.keras.losses.MeanSquaredError(),
  metrics=collections.OrderedDict(
    loss=tf.keras.metrics.MeanSquaredError,
    accuracy=_DeterminationCoefficient,
    mean_absolute_error=tf.keras.metrics.MeanAbsoluteError,
  ),
  classes=False,
  from_logits=False,
  main='R squared',
  is_fraction=False,
)
