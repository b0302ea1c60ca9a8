"""Learning processes whose clients may keep state between rounds."""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank import checks
from tff_lowrank import codecs
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.aggregators import client_stateful
from tff_lowrank.client_work import local_sgd
from tff_lowrank.client_work import optimizers
from tff_lowrank.client_work import schedule as schedule_lib
from tff_lowrank.client_work import training as training_lib
from tff_lowrank.learning.composition import downlink as downlink_lib
from tff_lowrank.learning.composition import finalizer as finalizer_lib
from tff_lowrank.learning.composition import work as work_lib


def _has_tensors(type_spec: tff.Type) -> bool:
  return tff.types.contains(type_spec, lambda t: isinstance(t, tff.TensorType))


class ClientStatefulLearningOutput(NamedTuple):
  """What `ClientStatefulLearningProcess.next` returns.

  state: S@SERVER, a `tff.learning.templates.LearningAlgorithmState`.
  client_states: C@CLIENTS, each client's state after the round, in the order given.
  reports: R@CLIENTS, in the same order: `accepted`, `uplink`, `downlink`, `official_units`;
    see `aggregators.ClientStatefulAggregationOutput`. Here `downlink` includes the model.
  metrics: M@SERVER: `distributor`, `client_work`, `aggregator`, `finalizer`.
  """

  state: Any
  client_states: Any
  reports: Any
  metrics: Any


class ClientStatefulLearningProcess:
  """Federated training with state at the server and at each client.

  All computations are plain `tff.Computation`s and run in any context:
    initialize: `( -> S@SERVER)`
    initialize_client: `( -> C)`, the state of a new client
    next: `(<S@SERVER, C@CLIENTS, {B*}@CLIENTS> -> ClientStatefulLearningOutput)`
    get_model_weights: `(S -> ModelWeights)`
    get_client_model_weights: `(<S, C> -> ModelWeights)`, the model that a client would use
  """

  def __init__(
    self,
    initialize: tff.Computation,
    initialize_client: tff.Computation,
    next_fn: tff.Computation,
    get_model_weights: tff.Computation,
    set_model_weights: tff.Computation,
    get_client_model_weights: tff.Computation,
  ):
    self.initialize = initialize
    self.initialize_client = initialize_client
    self.next = next_fn
    self.get_model_weights = get_model_weights
    self.set_model_weights = set_model_weights
    self.get_client_model_weights = get_client_model_weights

  @property
  def has_client_state(self) -> bool:
    return _has_tensors(self.initialize_client.type_signature.result)

  def as_learning_process(self) -> tff.learning.templates.LearningProcess:
    """Converts to a standard TFF process; raises TypeError if clients have state."""
    if self.has_client_state:
      raise TypeError(
        'A `tff.learning.templates.LearningProcess` has no client state, but the client state of '
        f'this process is {self.initialize_client.type_signature.result}.'
      )
    process = self

    @tff.federated_computation(
      self.next.type_signature.parameter[0], self.next.type_signature.parameter[2]
    )
    def next_fn(state, client_data):
      client_states = tff.federated_eval(process.initialize_client, tff.CLIENTS)
      output = process.next(state, client_states, client_data)
      return tff.learning.templates.LearningProcessOutput(output.state, output.metrics)

    return tff.learning.templates.LearningProcess(
      self.initialize, next_fn, self.get_model_weights, self.set_model_weights
    )


def build_initial_model_weights(model_fn: local_sgd.ModelFn) -> tff.Computation:
  """`( -> ModelWeights)`: the weights that training starts from."""

  @tff.tensorflow.computation
  def initial_model_weights():
    if isinstance(model_fn, tff.learning.models.FunctionalModel):
      trainable, non_trainable = model_fn.initial_weights
      return tff.learning.models.ModelWeights(
        tuple(tf.convert_to_tensor(w) for w in trainable),
        tuple(tf.convert_to_tensor(w) for w in non_trainable),
      )
    return tff.learning.models.ModelWeights.from_model(model_fn())

  return initial_model_weights


def checked_server_optimizer(
  optimizer: tff.learning.optimizers.Optimizer | None,
) -> tff.learning.optimizers.Optimizer:
  """`optimizer`, or SGD with rate 1 if it is None; raises TypeError for anything else."""
  if optimizer is None:
    return tff.learning.optimizers.build_sgdm(learning_rate=1.0)
  checks.check_type('server_optimizer_fn', optimizer, tff.learning.optimizers.Optimizer)
  return optimizer


def build_process(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  server_optimizer_fn: tff.learning.optimizers.Optimizer | None = None,
  *,
  client_weighting: tff.learning.ClientWeighting = tff.learning.ClientWeighting.NUM_EXAMPLES,
  model_aggregator: tff.aggregators.WeightedAggregationFactory
  | aggregators.ClientStatefulAggregationFactory
  | None = None,
  metrics_aggregator: Callable[..., tff.Computation] | None = None,
  downlink: codecs.Codec | str | None = None,
  initial_from_seed: bool = False,
  seed: int = 0,
) -> ClientStatefulLearningProcess:
  """Builds federated averaging around an aggregator, with or without client state.

  A round: broadcast the model, train locally, aggregate the updates, apply the aggregate with
  the server optimizer. If no client is accepted, the model and the optimizer's state do not
  change.

  Args:
    model_fn: A `tff.learning.models.FunctionalModel`, or a no-arg callable that returns a
      `tff.learning.models.VariableModel`.
    client_optimizer_fn: Runs the local steps; a `client_work.RoundSchedule` for learning rates
      by round, a `client_work.ClientRates` for learning rates by client.
    server_optimizer_fn: Applies the aggregate as the gradient; SGD with rate 1 if None, which is
      the FedAvg of McMahan et al., https://arxiv.org/abs/1602.05629.
    client_weighting: By number of examples, or uniform.
    model_aggregator: Aggregates the updates; `tff.aggregators.MeanFactory()` if None.
    metrics_aggregator: `tff.learning.metrics.sum_then_finalize` if None.
    downlink: The codec that compresses the model sent to clients, see `composition.downlink`; None
      or the identity sends the model as it is.
    initial_from_seed: Whether clients draw the initial weights themselves from a seed of 64 bits,
      so that a new client may receive all messages so far instead of the model.
    seed: Seeds, together with the round number, all randomness in `downlink`.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If `downlink` cannot be used for the downlink, or is the identity and
      `initial_from_seed` is set.
  """
  server_optimizer_fn = checked_server_optimizer(server_optimizer_fn)
  work = build_memoryless_work(model_fn, client_optimizer_fn, client_weighting, metrics_aggregator)
  initial_model_weights = build_initial_model_weights(model_fn)
  weights_type = initial_model_weights.type_signature.result
  aggregator = aggregators.lift(model_aggregator or tff.aggregators.MeanFactory()).create(
    weights_type.trainable, tff.TensorType(tf.float32.as_numpy_dtype)
  )
  finalizer = finalizer_lib.build_finalizer(server_optimizer_fn, weights_type)
  downlink = codecs.Identity() if downlink is None else codecs.resolve(downlink, 'downlink')
  if downlink == codecs.Identity():
    if initial_from_seed:
      raise ValueError('`initial_from_seed` needs a `downlink` codec, found the identity.')
    return compose(initial_model_weights, work, aggregator, finalizer)
  downlink_lib.check_downlink(downlink)
  distributor = downlink_lib.build_distributor(initial_model_weights, downlink, seed)
  sent_type = distributor.next.type_signature.result.result.member
  work = _from_coded_model(work, sent_type, initial_from_seed)
  return compose(initial_model_weights, work, aggregator, finalizer, distributor=distributor)


def build_memoryless_work(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  client_weighting: tff.learning.ClientWeighting,
  metrics_aggregator: Callable[..., tff.Computation] | None,
) -> work_lib.ClientStatefulWork:
  """Local training of clients that remember nothing; arguments are those of `build_process`."""
  how = (model_fn, client_optimizer_fn, client_weighting, metrics_aggregator)
  # The same steps as TFF's own, which AutoGraph rewrites first.
  is_quick = isinstance(model_fn, tff.learning.models.FunctionalModel) and optimizers.is_plain(
    client_optimizer_fn
  )
  is_by_round_or_client = isinstance(
    client_optimizer_fn, schedule_lib.RoundSchedule | schedule_lib.ClientRates
  )
  if is_quick or is_by_round_or_client:
    return work_lib.build_memoryless_work(
      training_lib.build_training(*how),
      lambda training, weights, dataset: training.train(weights, None, dataset),
    )
  return _without_memory(local_sgd.build_local_sgd(*how))


def _without_memory(
  work: tff.learning.templates.ClientWorkProcess,
) -> work_lib.ClientStatefulWork:
  """TFF's own client work, whose clients have no state and receive the whole model."""
  weights_type = work.next.type_signature.parameter[1].member
  weights_spec = tff.types.type_to_tf_tensor_specs(weights_type)

  @tff.tensorflow.computation
  def model_price():
    return ledger.dense_price(weights_spec)

  parameter = work.next.type_signature.parameter

  @tff.federated_computation(
    parameter[0], tff.FederatedType((), tff.CLIENTS), parameter[1], parameter[2]
  )
  def next_fn(state, client_state, weights, client_data):
    output = work.next(state, weights, client_data)
    downlink = tff.federated_eval(model_price, tff.CLIENTS)
    return work_lib.ClientWorkOutput(
      output.state, client_state, client_state, output.result, downlink, output.measurements
    )

  @tff.tensorflow.computation(weights_type)
  def received(weights):
    return weights.trainable

  return work_lib.ClientStatefulWork(work.initialize, client_stateful.no_memory, next_fn, received)


def _from_coded_model(
  work: work_lib.ClientStatefulWork, sent_type: tff.Type, initial_from_seed: bool
) -> work_lib.ClientStatefulWork:
  """`work`, of clients without state, on a model compressed by `downlink.build_distributor`."""

  @tff.tensorflow.computation(sent_type)
  def received(sent):
    return sent['weights'].trainable

  receive = downlink_lib.build_receive(sent_type, initial_from_seed)
  return work_lib.build_receiving_work(work, downlink_lib.never_seen, receive, received)


def compose(
  initial_model_weights: tff.Computation,
  client_work: work_lib.ClientStatefulWork,
  aggregator: aggregators.ClientStatefulAggregationProcess,
  finalizer: tff.learning.templates.FinalizerProcess,
  outgoing: tff.Computation | None = None,
  personalize: tff.Computation | None = None,
  distributor: tff.learning.templates.DistributionProcess | None = None,
) -> ClientStatefulLearningProcess:
  """As `tff.learning.templates.compose_learning_process`, with client state and reports.

  The client state is the aggregator's. If the client work has state too, it is an `OrderedDict`
  of both, `work` and `aggregator`. A client that the aggregator excludes keeps the state it had,
  updated only by what it received (see `work.Worked`).

  Args:
    initial_model_weights: `( -> ModelWeights)`.
    client_work: What clients do with the broadcast.
    aggregator: Aggregates the updates.
    finalizer: Computes the new model from the old one and the aggregate. F is its state.
    outgoing: `(<F, ModelWeights> -> B)`, what to broadcast; the model itself if None.
    personalize: `(<F, state of the client work, ModelWeights> -> ModelWeights)`, the model
      that a client would use; the global one if None.
    distributor: Sends the result of `outgoing` to the clients; broadcasts it if None.
  """
  weights_type = initial_model_weights.type_signature.result
  if outgoing is None:
    broadcast_type = weights_type
  else:
    broadcast_type = outgoing.type_signature.result
  if distributor is None:
    distributor = tff.learning.templates.build_broadcast_process(broadcast_type)
  work_has_state = _has_tensors(client_work.initialize_client.type_signature.result)

  @tff.tensorflow.computation
  def initialize_both():
    return collections.OrderedDict(
      work=client_work.initialize_client(), aggregator=aggregator.initialize_client()
    )

  initialize_client = initialize_both if work_has_state else aggregator.initialize_client

  client_state_type = initialize_client.type_signature.result

  @tff.federated_computation
  def initialize():
    return tff.federated_zip(
      tff.learning.templates.LearningAlgorithmState(
        tff.federated_eval(initial_model_weights, tff.SERVER),
        distributor.initialize(),
        client_work.initialize(),
        aggregator.initialize(),
        finalizer.initialize(),
      )
    )

  @tff.tensorflow.computation(client_stateful.REPORT_TYPE, client_stateful.PRICE_TYPE)
  def add_downlink(report, downlink):
    total = ledger.add(report['downlink'], downlink)
    return collections.OrderedDict(report, downlink=total)

  work_memory_type = client_work.initialize_client.type_signature.result

  @tff.tensorflow.computation(client_stateful.REPORT_TYPE, work_memory_type, work_memory_type)
  def keep(report, memory, excluded_memory):
    return structures.select(report['accepted'], memory, excluded_memory)

  @tff.federated_computation(
    initialize.type_signature.result,
    tff.FederatedType(client_state_type, tff.CLIENTS),
    client_work.next.type_signature.parameter[3],
  )
  def next_fn(state, client_states, client_data):
    if work_has_state:
      work_memory, memory = client_states['work'], client_states['aggregator']
    else:
      work_memory = tff.federated_eval(client_work.initialize_client, tff.CLIENTS)
      memory = client_states
    # To clients.
    message = state.global_model_weights
    if outgoing is not None:
      message = tff.federated_map(outgoing, (state.finalizer, message))
    distributed = distributor.next(state.distributor, message)
    # At clients.
    worked = client_work.next(state.client_work, work_memory, distributed.result, client_data)
    # To the server.
    model = []
    if aggregator.takes_model:
      model.append(tff.federated_map(client_work.received, distributed.result))
    aggregated = aggregator.next(
      state.aggregator, memory, worked.result.update, worked.result.update_weight, *model
    )
    # At the server.
    finalized = finalizer.next(state.finalizer, state.global_model_weights, aggregated.result)
    new_state = tff.learning.templates.LearningAlgorithmState(
      finalized.result,
      distributed.state,
      worked.state,
      aggregated.state,
      finalized.state,
    )
    memory = aggregated.client_state
    if work_has_state:
      kept = tff.federated_map(
        keep, (aggregated.reports, worked.client_state, worked.excluded_state)
      )
      memory = tff.federated_zip(collections.OrderedDict(work=kept, aggregator=memory))
    metrics = collections.OrderedDict(
      distributor=distributed.measurements,
      client_work=worked.measurements,
      aggregator=aggregated.measurements,
      finalizer=finalized.measurements,
    )
    return ClientStatefulLearningOutput(
      tff.federated_zip(new_state),
      memory,
      tff.federated_map(add_downlink, (aggregated.reports, worked.downlink)),
      tff.federated_zip(metrics),
    )

  state_type = initialize.type_signature.result.member

  @tff.tensorflow.computation(state_type)
  def get_model_weights(state):
    return state.global_model_weights

  @tff.tensorflow.computation(state_type, weights_type)
  def set_model_weights(state, model_weights):
    return state._replace(global_model_weights=model_weights)

  @tff.federated_computation(state_type, client_state_type)
  def get_client_model_weights(state, client_state):
    if personalize is None:
      return state.global_model_weights
    return personalize(state.finalizer, client_state['work'], state.global_model_weights)

  return ClientStatefulLearningProcess(
    initialize,
    initialize_client,
    next_fn,
    get_model_weights,
    set_model_weights,
    get_client_model_weights,
  )
