"""What of a Keras model TFF would lose in making it functional: its own losses, what is frozen."""

from collections.abc import Callable

import tensorflow as tf

from tff_lowrank.models import copies


@tf.custom_gradient
def _with_gradient_of(output: tf.Tensor, loss: tf.Tensor) -> tf.Tensor:
  """`output`, unchanged; whoever differentiates by way of it adds the gradient of `loss`."""

  def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return upstream, tf.ones_like(loss)

  return tf.identity(output), gradient


class _WithOwnLosses(tf.keras.Model):
  """See `with_own_losses`."""

  def __init__(self, model: tf.keras.Model):
    super().__init__(name=model.name)
    self._model = model

  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    # In a TFF graph, Keras keeps those of the symbolic inputs that the model was built with.
    others = self._model.losses
    output = self._model(inputs, training=training)
    for loss in self._model.losses:
      if not any(loss is other for other in others):
        output = _with_gradient_of(output, loss)
    return output


def copier(model: tf.keras.Model) -> Callable[[], tf.keras.Model]:
  """A function that builds copies of `model`, as `copies.cloner`.

  In TensorFlow's graphs the weights of a copy are fresh, otherwise those of `model`.
  """
  clone = copies.cloner(model)

  def build() -> tf.keras.Model:
    copy = clone()
    if tf.executing_eagerly():  # TFF takes the initial weights from here.
      copy.set_weights(model.get_weights())
    return copy

  return build


def with_own_losses(model: tf.keras.Model) -> Callable[[], tf.keras.Model] | tf.keras.Model:
  """What to give `tff.learning.models.functional_model_from_keras` for `model`, of one output.

  That takes the model's output alone. Its own losses, those of `kernel_regularizer`,
  `activity_regularizer` and `add_loss`, would be lost, which Keras and
  `tff.learning.models.from_keras_model` add to the loss that they minimise. Here the output brings
  their gradient along, which is added to that of any loss of the output. What is measured is as
  without them, as it is of `from_keras_model`.

  Layers that are frozen are frozen there too: see `copies.cloner`.

  Returns:
    `model` if it has no losses of its own and nothing frozen; else a function that builds a copy.
  """
  has_losses = bool(model.losses)
  if not has_losses and not copies.has_frozen(model):
    return model
  build = copier(model)
  return (lambda: _WithOwnLosses(build())) if has_losses else build
