import numpy as np
import pytest

from tests.freezing import numpy_apf
from tff_lowrank import codecs
from tff_lowrank import freezing
from tff_lowrank.analysis import replay

BYTES = 4 * (6 + 3)  # Of a model in `some_rounds`.


def some_rounds(rng, count=6, clients=('a', 'b')):
  """Rounds of FedAvg, of which client b misses the third."""
  weights = dict(a=3.0, b=1.0)
  model, rounds = [np.zeros((2, 3), np.float32), np.zeros(3, np.float32)], []
  steady = {c: [rng.normal(size=x.shape) for x in model] for c in clients}
  for number in range(1, count + 1):
    present = [c for c in clients if not (c == 'b' and number == 3)]
    updates = {
      c: [(s + 0.3 * rng.normal(size=s.shape)).astype(np.float32) for s in steady[c]]
      for c in present
    }
    total = sum(weights[c] for c in present)
    mean = [sum(weights[c] / total * updates[c][i] for c in present) for i in range(2)]
    after = [(x - m).astype(np.float32) for x, m in zip(model, mean, strict=True)]
    rounds.append(replay.Round(number, updates, {c: weights[c] for c in present}, model, after))
    model = after
  return rounds


def look_back(rounds, threshold):
  """LBGM by hand, tensor by tensor: (bytes, lost, energy) of each round."""
  kept, rows = {}, []
  for done in rounds:
    up, sent = 0, {}
    for client, update in done.updates.items():
      bits, decoded = 0, []
      for i, x in enumerate(np.float64(u) for u in update):
        l = kept.get((client, i))
        rho = 0 if l is None else np.sum(x * l) / np.sum(l * l)
        if l is not None and np.sum((x - rho * l) ** 2) <= threshold * np.sum(x * x):
          bits += 1 + 32
          decoded.append(rho * l)
        else:
          bits += 1 + 32 * x.size
          kept[client, i] = x
          decoded.append(x)
      up += -(-bits // 8)
      sent[client] = decoded
    total = sum(done.weights.values())
    means = [
      np.concatenate([
        np.ravel(sum(done.weights[c] / total * values[c][i] for c in values)) for i in range(2)
      ])
      for values in (done.updates, sent)
    ]  # fmt: skip
    rows.append((up, np.sum((means[0] - means[1]) ** 2), np.sum(means[0] ** 2)))
  return np.array(rows).T


@pytest.mark.parametrize('threshold', [0.05, 0.1, 0.5])
def test_look_back_by_hand(rng, threshold):
  rounds = some_rounds(rng)
  got = replay.replay_codec(codecs.LookBack(threshold=threshold), rounds, seed=1)
  up, lost, energy = look_back(rounds, threshold)
  np.testing.assert_array_equal(got.uplink_bytes, up)
  assert got.downlink_bytes.tolist() == [2 * BYTES] * 2 + [BYTES] + [2 * BYTES] * 3
  np.testing.assert_allclose(got.lost, lost, rtol=1e-4, atol=1e-9)
  np.testing.assert_allclose(got.energy, energy, rtol=1e-5)
  assert got.error == pytest.approx(lost.sum() / energy.sum(), rel=1e-4)
  assert (up < 2 * BYTES).any()  # Something was recycled.


def test_what_is_sent_whole_loses_nothing(rng):
  got = replay.replay_codec(codecs.Identity(), some_rounds(rng), seed=1)
  np.testing.assert_array_equal(got.uplink_bytes, got.downlink_bytes)
  assert got.error == 0


def test_rounds_without_clients(rng):
  rounds = some_rounds(rng)
  nobody = replay.Round(1, {}, {}, rounds[0].before, rounds[0].before)
  for got in (
    replay.replay_codec(codecs.LookBack(), [nobody], seed=1),
    replay.replay_freezing(freezing.Settings(), 'server', [nobody]),
  ):
    assert (got.uplink_bytes, got.downlink_bytes, got.error) == (0, 0, 0)


def drifting_rounds(rng, count=30):
  """The model moves on in some coordinates and to and fro in others."""
  model, rounds = [np.zeros((2, 3), np.float32), np.zeros(3, np.float32)], []
  for number in range(1, count + 1):
    step = [rng.choice([-1, 1], x.shape) + (rng.random(x.shape) < 0.3) for x in model]
    after = [(x + s).astype(np.float32) for x, s in zip(model, step, strict=True)]
    update = [a - b for a, b in zip(model, after, strict=True)]
    rounds.append(replay.Round(number, dict(a=update), dict(a=1.0), model, after))
    model = after
  return rounds


def test_freezing_by_hand(rng):
  rounds = drifting_rounds(rng)
  settings = freezing.Settings(stability_threshold=0.4, ema_decay=0.6)
  got = replay.replay_freezing(settings, 'derived', rounds)
  reference, active_before = numpy_apf.NumpyApf(9, 0.4, 0.6), 9
  for r, done in enumerate(rounds):
    flat = [np.concatenate([np.ravel(x) for x in tensors]) for tensors in done[3:]]
    change = np.where(reference.frozen, 0, flat[1] - flat[0])
    assert got.lost[r] == pytest.approx(np.sum((flat[1] - flat[0])[reference.frozen] ** 2))
    assert got.energy[r] == pytest.approx(np.sum((flat[1] - flat[0]) ** 2))
    # Up what is active; down what the last round changed: a client that is always there derives
    # the mask itself.
    active = 9 - reference.frozen.sum()
    assert (got.uplink_bytes[r], got.downlink_bytes[r]) == (4 * active, 4 * active_before)
    active_before = active
    reference.check(change)
    assert got.frozen_fraction[r] == pytest.approx(reference.frozen.mean())
  assert 0 < got.error < 1


def test_perturbations_are_those_without_freezing(rng):
  rounds = drifting_rounds(rng)
  settings = freezing.Settings(stability_threshold=0.4, ema_decay=0.6)
  reference = numpy_apf.NumpyApf(9, 0.0, 0.6)
  for done in rounds:
    reference.check(np.concatenate([np.ravel(b - a) for a, b in zip(*done[3:], strict=True)]))
  expected = np.abs(reference.E) / reference.A
  got = replay.perturbations(settings, rounds)
  np.testing.assert_allclose(got, [expected[:6].mean(), expected[6:].mean()], rtol=1e-5)


def test_weighted_mean():
  updates = dict(a=[np.float32([1, 2])], b=[np.float32([5, 6])])
  (mean,) = replay.weighted_mean(updates, dict(a=3.0, b=1.0))
  assert mean.tolist() == [2, 3]


@pytest.mark.parametrize('share, rank', [(0.9, 1), (0.95, 2), (0.999, 3)])
def test_spectral_rank(share, rank, rng):
  # Energies 90, 9 and 1 of 100.
  left, right = (np.linalg.qr(rng.normal(size=(n, 3)))[0] for n in (20, 7))
  tensor = (left * np.sqrt([90.001, 9, 0.999])) @ right.T
  assert replay.spectral_rank(tensor.reshape(4, 5, 7), share) == rank
  assert replay.spectral_rank(np.zeros((3, 4)), share) == 1
  assert replay.spectral_rank(np.ones(5), share) == 1
