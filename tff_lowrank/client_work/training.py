"""Local training with frozen coordinates or corrected gradients."""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import checks
from tff_lowrank import freezing
from tff_lowrank import structures
from tff_lowrank.client_work import local_sgd
from tff_lowrank.client_work import schedule as schedule_lib


class Trained(NamedTuple):
  """The result of a client's local training.

  result: `tff.learning.templates.ClientResult`: the initial model minus the trained one, and its
    weight. As in `local_sgd`, a client without examples, or whose update is not finite, has
    weight 0; then the update is zero.
  trainable: The trained weights; the initial ones for a client of weight 0.
  metrics: Unfinalized.
  num_steps: int64 [], the number of batches; each is one optimizer step.
  learning_rate: float32 [], of the last step; None if the optimizer has no learning rate.
  """

  result: Any
  trainable: Any
  metrics: Any
  num_steps: Any
  learning_rate: Any


class Correction(NamedTuple):
  """A term added to the gradient of a weight w whose value at the start of the round is w0.

  It is `offset + strength (w - w0)`, the gradient of `<offset, w> + strength / 2 |w - w0|^2`.

  strength: float, the same for all steps; 0 adds nothing.
  offset: One tensor for each trainable weight, of its shape; None adds nothing.
  """

  strength: float = 0.0
  offset: Any = None


class LocalTraining(NamedTuple):
  """TFF's own local training (one pass over the batches) plus frozen coordinates.

  weights_type: `ModelWeights`.
  data_type: `B*`; elements are `schedule.with_rate(B, rate)` if each client has its own rate.
  train: TensorFlow function `(ModelWeights, frozen or None, dataset, correction=None,
    rate_factor=None) -> Trained`. `frozen` is a list of bool tensors, each of the shape of its
    weight or []. After every optimizer step, frozen coordinates are reset to their initial value,
    so their update is exactly 0 under any momentum, moments or weight decay. `correction` is a
    `Correction`; without one the gradients are those of the loss. The learning rate is the
    optimizer's, or that of the batch, times `rate_factor`.
  aggregate_metrics: `(metrics@CLIENTS -> finalized@SERVER)`.
  schedule: The learning rate by round, or None; `train` itself does not know the round.
  """

  weights_type: tff.Type
  data_type: tff.Type
  train: Callable[..., Trained]
  aggregate_metrics: Callable[[Any], Any]
  schedule: schedule_lib.RoundSchedule | None = None

  def in_round(self, round_num: tf.Tensor) -> 'LocalTraining':
    """The training of round `round_num`, int32 [] from 0, with the learning rate of that round.

    Returns itself if there is no schedule.
    """
    if self.schedule is None:
      return self
    factor = tf.cast(self.schedule.factor(round_num), tf.float32)
    return self._replace(train=functools.partial(self.train, rate_factor=factor))


class _Optimizer(NamedTuple):
  """Runs a client's steps at the right learning rate, which is kept in the optimizer's state.

  inner: the optimizer.
  by_client: whether the rate comes with each batch.
  """

  inner: tff.learning.optimizers.Optimizer
  by_client: bool

  def initialize(self, specs: Any, rate_factor: tf.Tensor | None) -> Any:
    """The initial state, with the learning rate times the factor."""
    state = self.inner.initialize(specs)
    return state if rate_factor is None else self._at(self.rate(state) * rate_factor, state)

  def read(self, state: Any, element: Any, rate_factor: tf.Tensor | None) -> tuple[Any, Any]:
    """The state for a step on an element of the client's data, and the element's batch."""
    if not self.by_client:
      return state, element
    rate = element[schedule_lib.RATE]
    if rate_factor is not None:
      rate *= rate_factor
    return self._at(rate, state), element[schedule_lib.BATCH]

  def rate(self, state: Any) -> Any:
    """The learning rate; None if the optimizer has none."""
    return self.inner.get_hparams(state).get(tff.learning.optimizers.LEARNING_RATE_KEY)

  def _at(self, rate: tf.Tensor, state: Any) -> Any:
    hparams = {
      **self.inner.get_hparams(state), tff.learning.optimizers.LEARNING_RATE_KEY: rate
    }  # fmt: skip
    return self.inner.set_hparams(state, hparams)


def _pin(frozen: list[tf.Tensor] | None, initial: Any, trained: Any) -> Any:
  return trained if frozen is None else freezing.hold(frozen, initial, trained)


def _corrected(gradients: Any, correction: Correction | None, initial: Any, current: Any) -> Any:
  """The gradients with the correction added; `current` may hold variables."""
  if correction is None:
    return gradients
  # The gradient is None if the loss does not depend on the weight.
  gradients = tf.nest.map_structure(
    lambda g, w: tf.zeros_like(w) if g is None else g, gradients, current
  )
  if correction.offset is not None:
    offset = tf.nest.pack_sequence_as(gradients, tf.nest.flatten(correction.offset))
    gradients = tf.nest.map_structure(tf.add, gradients, offset)
  if correction.strength:
    gradients = tf.nest.map_structure(
      lambda g, w, w0: tf.add(g, correction.strength * (w - w0)), gradients, current, initial
    )
  return gradients


def _finish(
  initial: Any,
  trained: Any,
  num_examples: tf.Tensor,
  weighting: tff.learning.ClientWeighting,
) -> tuple[tff.learning.templates.ClientResult, Any, tf.Tensor]:
  """The result, the weights to keep, and whether the update is finite."""
  update = tf.nest.map_structure(tf.subtract, initial, trained)
  finite = structures.all_finite(update)
  zeros = tf.nest.map_structure(tf.zeros_like, update)
  if weighting == tff.learning.ClientWeighting.UNIFORM:
    weight = tf.cast(num_examples > 0, tf.float32)
  else:
    weight = tf.cast(num_examples, tf.float32)
  result = tff.learning.templates.ClientResult(
    structures.select(finite, update, zeros), tf.where(finite, weight, 0.0)
  )
  return result, structures.select(finite, trained, initial), finite


def _functional_training(
  model: tff.learning.models.FunctionalModel,
  optimizer: _Optimizer,
  weighting: tff.learning.ClientWeighting,
) -> Callable[..., Trained]:
  # The loss may be a function of the user, with branches.
  loss_of = tf.autograph.to_graph(type(model).loss)

  @tf.function(autograph=False)
  def train(weights, frozen, dataset, correction=None, rate_factor=None):
    initial, non_trainable = weights.trainable, weights.non_trainable
    specs = tf.nest.map_structure(tf.TensorSpec.from_tensor, tuple(tf.nest.flatten(initial)))

    def step(state, element):
      trainable, optimizer_state, metrics, num_examples, num_steps = state
      optimizer_state, batch = optimizer.read(optimizer_state, element, rate_factor)
      x, y = (batch['x'], batch['y']) if isinstance(batch, Mapping) else batch
      with tf.GradientTape() as tape:
        tape.watch(trainable)
        output = model.predict_on_batch((trainable, non_trainable), x, training=True)
        loss = loss_of(model, output=output, label=y)
      gradients = _corrected(tape.gradient(loss, trainable), correction, initial, trainable)
      optimizer_state, trainable = optimizer.inner.next(optimizer_state, trainable, gradients)
      batch_size = tf.shape(tf.nest.flatten(output)[0])[0]
      metrics = model.update_metrics_state(
        metrics,
        batch_output=tff.learning.models.BatchOutput(
          loss=loss, predictions=output, num_examples=batch_size
        ),
        labels=y,
      )
      num_examples += tf.cast(batch_size, tf.int64)
      trainable = _pin(frozen, initial, trainable)
      return trainable, optimizer_state, metrics, num_examples, num_steps + 1

    start = (
      initial,
      optimizer.initialize(specs, rate_factor),
      model.initialize_metrics_state(),
      tf.constant(0, tf.int64),
      tf.constant(0, tf.int64),
    )
    trained, optimizer_state, metrics, num_examples, num_steps = dataset.reduce(start, step)
    result, trained, finite = _finish(initial, trained, num_examples, weighting)
    metrics = structures.select(finite, metrics, model.initialize_metrics_state())
    return Trained(result, trained, metrics, num_steps, optimizer.rate(optimizer_state))

  return train


def _variable_training(
  model_fn: Callable[[], tff.learning.models.VariableModel],
  optimizer: _Optimizer,
  weighting: tff.learning.ClientWeighting,
) -> Callable[..., Trained]:
  def build_and_train(weights, frozen, dataset, correction=None, rate_factor=None):
    model = model_fn()  # One per graph, built outside the traced function.

    @tf.function
    def train(weights, frozen, dataset, correction, rate_factor):
      variables = tff.learning.models.ModelWeights.from_model(model)
      tf.nest.map_structure(lambda a, b: a.assign(b), variables, weights)
      flat = tuple(tf.nest.flatten(variables.trainable))
      initial = tuple(tf.nest.flatten(weights.trainable))

      def step(state, element):
        num_examples, num_steps, optimizer_state = state
        optimizer_state, batch = optimizer.read(optimizer_state, element, rate_factor)
        with tf.GradientTape() as tape:
          output = model.forward_pass(batch, training=True)
        gradients = tuple(tape.gradient(output.loss, flat))
        gradients = _corrected(gradients, correction, initial, flat)
        optimizer_state, trainable = optimizer.inner.next(optimizer_state, flat, gradients)
        for variable, value in zip(flat, _pin(frozen, initial, trainable), strict=True):
          variable.assign(value)
        if output.num_examples is None:
          num_examples += tf.shape(output.predictions, out_type=tf.int64)[0]
        else:
          num_examples += tf.cast(output.num_examples, tf.int64)
        return num_examples, num_steps + 1, optimizer_state

      specs = tf.nest.map_structure(lambda v: tf.TensorSpec(v.shape, v.dtype), flat)
      optimizer_state = optimizer.initialize(specs, rate_factor)
      start = (tf.constant(0, tf.int64), tf.constant(0, tf.int64), optimizer_state)
      num_examples, num_steps, optimizer_state = dataset.reduce(start, step)
      trained = tf.nest.map_structure(lambda v: v.read_value(), variables.trainable)
      result, trained, finite = _finish(weights.trainable, trained, num_examples, weighting)
      if not finite:
        model.reset_metrics()
      metrics = model.report_local_unfinalized_metrics()
      return Trained(result, trained, metrics, num_steps, optimizer.rate(optimizer_state))

    return train(weights, frozen, dataset, correction, rate_factor)

  return build_and_train


def build_training(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  client_weighting: tff.learning.ClientWeighting = tff.learning.ClientWeighting.NUM_EXAMPLES,
  metrics_aggregator: Callable[..., tff.Computation] | None = None,
) -> LocalTraining:
  """Builds local training with frozen coordinates or corrections; see `LocalTraining`.

  The arguments are those of `local_sgd.build_local_sgd`; the optimizer may also have learning
  rates by round or by client: `schedule.ClientOptimizer`.

  Raises:
    TypeError: If an argument is of the wrong type.
  """
  local_sgd.check_model_fn(model_fn)
  optimizer, schedule, by_client = schedule_lib.parts(client_optimizer_fn)
  checks.check_type('client_weighting', client_weighting, tff.learning.ClientWeighting)
  if metrics_aggregator is None:
    metrics_aggregator = tff.learning.metrics.sum_then_finalize
  if isinstance(model_fn, tff.learning.models.FunctionalModel):
    weights_spec = tff.learning.models.ModelWeights(
      *(tuple(tf.TensorSpec(w.shape, w.dtype) for w in kind) for kind in model_fn.initial_weights)
    )
    weights_type = tff.types.tensorflow_to_type(weights_spec)
    input_spec, finalize = model_fn.input_spec, model_fn.finalize_metrics
    build: Callable[..., Callable[..., Trained]] = _functional_training
  else:
    with tf.Graph().as_default():  # The variables are not kept.
      model = model_fn()
      input_spec, finalize = model.input_spec, model.metric_finalizers()
      weights_type = tff.learning.models.weights_type_from_model(model)
      build = _variable_training
  if by_client:
    input_spec = schedule_lib.with_rate(input_spec, tf.TensorSpec([], tf.float32))
  return LocalTraining(
    weights_type,
    tff.SequenceType(tff.types.tensorflow_to_type(input_spec)),
    build(model_fn, _Optimizer(optimizer, by_client), client_weighting),
    metrics_aggregator(finalize),
    schedule,
  )
