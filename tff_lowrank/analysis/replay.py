"""Computes what methods would have sent, and lost, in a recorded training run with FedAvg.

A replay uses the recorded updates as they are. It ignores that with the method the model, and so
every later update, would be different. The loss is
  error = sum over rounds of |m - m'|^2 / sum over rounds of |m|^2
where m is a round's mean update, and m' the server's reconstruction of it.
"""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tff_lowrank import codecs
from tff_lowrank import freezing
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.codecs import low_rank
from tff_lowrank.freezing import synchronisation

Tensors = list[np.ndarray]


class Round(NamedTuple):
  """A recorded round.

  number: from 1.
  updates: for each client of the cohort, the initial model minus the trained one, one array per
    trainable tensor.
  weights: the weights of these clients in the mean.
  before, after: the trainable tensors of the global model.
  """

  number: int
  updates: dict[str, Tensors]
  weights: dict[str, float]
  before: Tensors
  after: Tensors


class Replayed(NamedTuple):
  """The result of a replay, arrays [rounds].

  uplink_bytes, downlink_bytes: the bytes of all clients' messages.
  lost, energy: |m - m'|^2 and |m|^2.
  frozen_fraction: the fraction of all scalars frozen in the next round; 0 without freezing.
  """

  uplink_bytes: np.ndarray
  downlink_bytes: np.ndarray
  lost: np.ndarray
  energy: np.ndarray
  frozen_fraction: np.ndarray

  @property
  def error(self) -> float:
    """The error over all rounds, as the module defines it; 0 if all updates are 0."""
    return float(self.lost.sum() / self.energy.sum()) if self.energy.any() else 0.0


def weighted_mean(updates: dict[str, Tensors], weights: dict[str, float]) -> Tensors:
  """The mean of the clients' updates, float64; there must be at least one client."""
  total = sum(weights[client] for client in updates)
  parts = [
    [weights[client] / total * np.asarray(x, np.float64) for x in update]
    for client, update in updates.items()
  ]
  return [functools.reduce(np.add, tensors) for tensors in zip(*parts, strict=True)]


def _energy(tensors: Tensors) -> float:
  return float(sum(np.sum(np.square(x, dtype=np.float64)) for x in tensors))


def _model_bytes(tensors: Tensors) -> int:
  return sum(x.nbytes for x in tensors)


def replay_codec(codec: codecs.Codec | str, rounds: Sequence[Round], seed: int) -> Replayed:
  """Encodes the updates with `codec`, with state for each client; the whole model is sent down.

  Args:
    codec: A codec that does not need the model.
    rounds: The recorded rounds.
    seed: Seeds, together with the round number, all randomness in the codec.
  """
  codec = codecs.resolve(codec)

  @tf.function
  def send(memory, update, seed):
    encoded = codec.encode(memory, update, seed)
    bits = ledger.total(codec.message_price(encoded.message))
    return encoded.memory, codec.decode(memory, encoded.message), bits

  memories: dict[str, Any] = {}
  rows = []
  for done in rounds:
    sent, up = {}, 0
    for client, update in done.updates.items():
      memory = memories.get(client)
      if memory is None:
        memory = codec.initial_memory(structures.specs(update))
      memories[client], decoded, bits = send(memory, update, tf.constant([seed, done.number]))
      sent[client] = [np.asarray(x) for x in decoded]
      up += ledger.to_bytes(bits)
    lost = energy = 0.0
    if sent:
      mean, found = weighted_mean(done.updates, done.weights), weighted_mean(sent, done.weights)
      lost = _energy([a - b for a, b in zip(mean, found, strict=True)])
      energy = _energy(mean)
    rows.append((up, len(sent) * _model_bytes(done.before), lost, energy, 0.0))
  return Replayed(*map(np.array, zip(*rows, strict=True)))


def replay_freezing(
  settings: freezing.Settings, mask_policy: str, rounds: Sequence[Round]
) -> Replayed:
  """Runs APF's checks on the recorded model; the loss is the change of frozen parameters.

  The arguments are those of `learning.build_apf_fed_avg`.
  """
  specs = structures.specs(rounds[0].before)
  state = freezing.initial_state(settings, specs)
  changed = synchronisation.initial_changed(freezing.frozen_mask(settings, state))
  total = sum(x.size for x in rounds[0].before)
  known: dict[str, int] = {}
  rows = []

  @tf.function
  def advance(state, changed, change):
    frozen = freezing.frozen_mask(settings, state)
    moved = freezing.hold(frozen, [tf.zeros_like(x) for x in change], change)
    lost = sum(tf.reduce_sum(tf.square(a - b)) for a, b in zip(change, moved, strict=True))
    state = freezing.next_round(settings, state, moved)
    changed = synchronisation.next_changed(changed, frozen, state.round)
    return state, changed, lost, structures.count(freezing.frozen_mask(settings, state), specs)

  @tf.function
  def sum_up(state, changed):
    return synchronisation.sum_up(
      changed, freezing.frozen_mask(settings, state), state.round, specs
    )

  @tf.function
  def downlink(known, book):
    return ledger.total(synchronisation.downlink_price(settings, mask_policy, specs, known, book))

  for done in rounds:
    book = sum_up(state, changed)
    up = down = 0
    for client in done.updates:
      version = tf.constant(known.get(client, synchronisation.NEVER_SEEN))
      down += ledger.to_bytes(downlink(version, book))
      up += ledger.to_bytes(book.active_bits)
      known[client] = int(book.version)
    change = [a - b for a, b in zip(done.after, done.before, strict=True)]
    state, changed, lost, num_frozen = advance(state, changed, change)
    rows.append((up, down, float(lost), _energy(change), int(num_frozen) / total))
  return Replayed(*map(np.array, zip(*rows, strict=True)))


def perturbations(settings: freezing.Settings, rounds: Sequence[Round]) -> np.ndarray:
  """float32 [tensors]: the mean effective perturbation after all rounds, without freezing."""
  specs = structures.specs(rounds[0].before)
  settings = freezing.Settings(
    stability_threshold=0, check_every=settings.check_every, ema_decay=settings.ema_decay
  )
  state = freezing.initial_state(settings, specs)
  advance = tf.function(lambda state, change: freezing.next_round(settings, state, change))
  for done in rounds:
    state = advance(state, [a - b for a, b in zip(done.after, done.before, strict=True)])
  measured = freezing.measure(settings, state, specs)
  return measured['effective_perturbation_by_tensor']['mean'].numpy()


def spectral_rank(tensor: np.ndarray, share: float) -> int:
  """The number of singular values with `share` of a tensor's energy, as a matrix as in codecs.

  1 for a vector and for zeros.
  """
  matrix = np.reshape(tensor, low_rank.matrix_shape(tensor.shape))
  energies = np.square(np.linalg.svd(matrix, compute_uv=False).astype(np.float64))
  cumulative = np.cumsum(energies)
  return 1 + int(np.count_nonzero(cumulative < share * cumulative[-1]))
