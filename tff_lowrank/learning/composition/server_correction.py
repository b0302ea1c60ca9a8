"""The server's part of SCAFFOLD and FedDyn: a correction kept over all clients and rounds."""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank import checks
from tff_lowrank import codecs
from tff_lowrank import structures
from tff_lowrank.aggregators import client_stateful
from tff_lowrank.learning.composition import finalizer as finalizer_lib


class Counted(NamedTuple):
  """An aggregate, and the number of clients in it, int32 []."""

  mean: Any
  num_accepted: Any


def check_counts_clients(method: str, codec: codecs.Codec | str | None, num_clients: int) -> None:
  """Raises unless the server can know how many of `num_clients` clients are in a mean."""
  checks.check_at_least('num_clients', num_clients, 1)
  parts = () if codec is None else codecs.resolve(codec).parts
  if any(part.traits.whole_client for part in parts):
    raise ValueError(
      f'{codec} does not work with {method}: it excludes whole clients from the mean, and the '
      'server must know how many clients are in it.'
    )


def counting(
  inner: aggregators.ClientStatefulAggregationProcess,
) -> aggregators.ClientStatefulAggregationProcess:
  """`inner` with a `Counted` result."""

  @tff.tensorflow.computation(client_stateful.REPORT_TYPE)
  def one(report):
    return tf.cast(report['accepted'], tf.int32)

  # A single parameter: a structure of four or five parts.
  @tff.federated_computation(inner.next.type_signature.parameter)
  def next_fn(arguments):
    output = inner.next(arguments)
    count = tff.federated_sum(tff.federated_map(one, output.reports))
    return aggregators.ClientStatefulAggregationOutput(
      output.state,
      output.client_state,
      tff.federated_zip(Counted(output.result, count)),
      output.measurements,
      output.reports,
    )

  return aggregators.ClientStatefulAggregationProcess(
    inner.initialize, inner.initialize_client, next_fn
  )


def build_finalizer(
  server_optimizer: tff.learning.optimizers.Optimizer,
  weights_type: tff.Type,
  mean_type: tff.Type,
  num_clients: int,
  advance: Callable[[Any, Any, tf.Tensor], tuple[Any, Any]],
) -> tff.learning.templates.FinalizerProcess:
  """A step of the server optimizer with a correction in the server's state.

  State: `optimizer`, `correction` (one tensor for each trainable weight, zeros at first). An
  update that is not finite is rejected and changes nothing.

  advance: `(correction, mean, fraction of all clients that are in the mean, float64 []) ->
    (correction, gradient for the server optimizer)`.
  """
  inner = finalizer_lib.build_finalizer(server_optimizer, weights_type)
  spec = tf.nest.flatten(tff.types.type_to_tf_tensor_specs(weights_type.trainable))

  @tff.tensorflow.computation
  def zeros():
    return tuple(structures.zeros(spec))

  @tff.federated_computation
  def initialize():
    return tff.federated_zip(
      collections.OrderedDict(
        optimizer=inner.initialize(), correction=tff.federated_eval(zeros, tff.SERVER)
      )
    )

  counted_type = tff.to_type(Counted(mean_type, np.int32))
  correction_type = zeros.type_signature.result

  @tff.tensorflow.computation(correction_type, counted_type)
  def prepare(correction, counted):
    share = tf.cast(counted.num_accepted, tf.float64) / num_clients
    correction, gradient = advance(correction, counted.mean, share)
    like = tff.types.type_to_tf_tensor_specs(weights_type.trainable)
    return correction, tf.nest.pack_sequence_as(like, tf.nest.flatten(gradient))

  @tff.tensorflow.computation(correction_type, correction_type, np.int32)
  def keep(old, new, rejected):
    return structures.select((rejected > 0) | ~structures.all_finite(new), old, new)

  @tff.federated_computation(
    initialize.type_signature.result,
    tff.FederatedType(weights_type, tff.SERVER),
    tff.FederatedType(counted_type, tff.SERVER),
  )
  def next_fn(state, weights, counted):
    correction, gradient = tff.federated_map(prepare, (state['correction'], counted))
    stepped = inner.next(state['optimizer'], weights, gradient)
    rejected = stepped.measurements['update_non_finite']
    correction = tff.federated_map(keep, (state['correction'], correction, rejected))
    new_state = collections.OrderedDict(optimizer=stepped.state, correction=correction)
    return tff.templates.MeasuredProcessOutput(
      tff.federated_zip(new_state), stepped.result, stepped.measurements
    )

  return tff.learning.templates.FinalizerProcess(initialize, next_fn)
