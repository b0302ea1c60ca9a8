"""Keeps a Keras model's own losses and frozen layers when TFF makes it a functional model."""

from collections.abc import Callable

import tensorflow as tf

from tff_lowrank.models import copies


@tf.custom_gradient
def _with_gradient_of(output: tf.Tensor, loss: tf.Tensor) -> tf.Tensor:
  """Returns `output` unchanged; any gradient through it also has the gradient of `loss` added."""

  def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return upstream, tf.ones_like(loss)

  return tf.identity(output), gradient


class _WithOwnLosses(tf.keras.Model):
  """See `with_own_losses`."""

  def __init__(self, model: tf.keras.Model):
    super().__init__(name=model.name)
    self._model = model

  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    # In a TFF graph, Keras keeps the losses of the symbolic inputs with which the model was built.
    others = self._model.losses
    output = self._model(inputs, training=training)
    for loss in self._model.losses:
      if not any(loss is other for other in others):
        output = _with_gradient_of(output, loss)
    return output


def copier(model: tf.keras.Model) -> Callable[[], tf.keras.Model]:
  """A function that builds copies of `model`, as `copies.cloner`.

  In TensorFlow graphs a copy has new weights, otherwise those of `model`.
  """
  clone = copies.cloner(model)

  def build() -> tf.keras.Model:
    copy = clone()
    if tf.executing_eagerly():  # TFF takes the initial weights from here.
      copy.set_weights(model.get_weights())
    return copy

  return build


def with_own_losses(model: tf.keras.Model) -> Callable[[], tf.keras.Model] | tf.keras.Model:
  """The argument of `tff.learning.models.functional_model_from_keras` for `model`, with one output.

  TFF's function uses only the model's output. It ignores the model's own losses (from
  `kernel_regularizer`, `activity_regularizer` and `add_loss`), which Keras and
  `tff.learning.models.from_keras_model` add to the minimised loss. Here the gradient of the own
  losses is attached to the output, and added to the gradient of any loss of the output. The
  measured loss does not include them, as in `from_keras_model`.

  Frozen layers stay frozen: see `copies.cloner`.

  Returns:
    `model` if it has no own losses and no frozen layers; else a function that builds a copy.
  """
  has_losses = bool(model.losses)
  if not has_losses and not copies.has_frozen(model):
    return model
  build = copier(model)
  return (lambda: _WithOwnLosses(build())) if has_losses else build
