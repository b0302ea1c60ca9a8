"""What tasks minimise and measure: losses and metrics of what models return, mostly logits.

The metrics of every objective begin with `loss` and `accuracy`, the latter being the task's main
metric, whatever it is called elsewhere.
"""

import collections
from collections.abc import Callable, Sequence
import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Objective:
  """A loss and metrics.

  loss: of a batch.
  metrics: name -> builds a metric; `loss` and `accuracy` first.
  classes: whether labels are classes, integers from 0 up, or else float32 [batch, outputs].
  main: what the metric called `accuracy` is, for people and in the columns of metrics.csv.
  is_fraction: whether it is from 0 to 1.
  from_logits: whether the loss takes logits, so that a model must not end in a softmax or sigmoid.
  """

  loss: tf.keras.losses.Loss
  metrics: collections.OrderedDict[str, Callable[[], tf.keras.metrics.Metric]]
  classes: bool = True
  from_logits: bool = True
  main: str = 'accuracy'
  is_fraction: bool = True

  def described(self) -> dict[str, str]:
    """Name and unit of the main metric, as reports take them."""
    return dict(name=self.main, unit='fraction' if self.is_fraction else '')


CLASSIFICATION = Objective(
  loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
  metrics=collections.OrderedDict(
    loss=lambda: tf.keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
    accuracy=tf.keras.metrics.SparseCategoricalAccuracy,
  ),
)


def _is_none_of(y_true: tf.Tensor, tokens: Sequence[int]) -> tf.Tensor:
  """1 where a token counts, 0 where it is one of `tokens`: float32 of the shape of `y_true`."""
  counts = tf.ones_like(y_true, tf.bool)
  for token in tokens:
    counts &= tf.not_equal(y_true, tf.cast(token, y_true.dtype))
  return tf.cast(counts, tf.float32)


def _cross_entropy(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
  return tf.nn.sparse_softmax_cross_entropy_with_logits(y_true, y_pred)


def _is_correct(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
  return tf.cast(tf.equal(y_true, tf.argmax(y_pred, -1, y_true.dtype)), tf.float32)


class _TokenLoss(tf.keras.losses.Loss):
  """Mean cross-entropy of a batch's tokens, but for those of padding; 0 if there are none."""

  def __init__(self, padding: int):
    super().__init__(name='token_loss')
    self._padding = padding

  def __call__(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None) -> tf.Tensor:
    del sample_weight
    counts = _is_none_of(y_true, [self._padding])
    total = tf.reduce_sum(counts * _cross_entropy(y_true, y_pred))
    return tf.math.divide_no_nan(total, tf.reduce_sum(counts))


class _TokenMean(tf.keras.metrics.Mean):
  """The mean of what `measure` finds of each token, but for those that are `ignored`."""

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

  TFF's baseline tasks mask by the input, and so count the padding after the end of a sentence;
  here labels that are padding never count.

  Args:
    padding: Never counts.
    out_of_vocabulary: If given, does not count in `accuracy` either, but in
      `accuracy_with_out_of_vocabulary`.
    end: Of a sentence; if given, does not count in `accuracy_without_end`, nor does
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
  """Of all labels, the share that is among the `k` largest logits of its example."""

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
  """Of all labels that are given a probability above one half, the share that is right."""

  def update_state(
    self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None
  ) -> tf.Operation:
    del sample_weight
    return super().update_state(y_true, tf.cast(y_pred > 0, tf.float32))


# Several labels an example, logits and labels [batch, num_classes]. The loss is the mean over
# classes, summed over the batch, and `accuracy` the recall at 5, as in TFF's baseline task.
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
  """R^2: 1 minus the squared errors' sum over that of the labels' deviations from their mean.

  Of all outputs together, and 0 where all labels are equal. Its sums are float32: labels whose mean
  is far larger than their deviation lose digits.
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


# Numbers, predictions and labels [batch, outputs], which should be of about mean 0 and deviation 1.
# `accuracy` is R^2, at most 1 and below 0 for what is worse than the labels' mean. Of a client with
# few examples it says little.
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
