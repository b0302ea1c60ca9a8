import numpy as np
import pytest

from tff_lowrank.analysis import gradient_space


def history_of(columns, cuts=()):
  """The history of the gradients in `columns`, [n, e], cut into tensors at `cuts`."""
  history = gradient_space.History()
  for column in columns.T:
    history.add(np.split(column, cuts))
  return history


def whole(columns):
  return gradient_space.merge(history_of(columns).spaces())


def velocities(columns, momentum):
  out, v = [], 0
  for g in columns.T:
    v = momentum * v + g
    out.append(v)
  return np.stack(out, 1)


def pca(columns):
  """Singular values and principal directions [n, e], coordinates as samples, by the SVD."""
  centred = columns - columns.mean(0)
  _, s, vt = np.linalg.svd(centred, full_matrices=False)
  return s, centred @ vt.T


def components(columns, share):
  s, _ = pca(columns)
  return int(np.searchsorted(np.cumsum(s**2) / np.sum(s**2), share)) + 1


def cosines(a, b):
  return np.abs(a.T @ b) / np.outer(np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=0))


@pytest.fixture
def columns(rng):
  """[300, 12]: a few strong directions, decaying, with some noise and a common offset."""
  strong = rng.normal(size=(300, 4)) @ (rng.normal(size=(4, 12)) * [[8], [4], [2], [1]])
  return (strong + 0.5 * rng.normal(size=(300, 12)) + 3).astype(np.float32)


@pytest.mark.parametrize('momentum', [0.0, 0.9])
@pytest.mark.parametrize('share', gradient_space.SHARES)
def test_equals_the_svd(columns, momentum, share):
  v = velocities(columns.astype(np.float64), momentum)
  space = gradient_space.with_momentum(whole(columns), momentum)
  expected = [components(v[:, : e + 1], share) for e in range(12)]
  assert gradient_space.num_components(space, share).tolist() == expected
  _, directions = pca(v)
  got = gradient_space.principal_overlaps(space, share)
  np.testing.assert_allclose(got, cosines(v, directions[:, : expected[-1]]), atol=1e-6)
  np.testing.assert_allclose(gradient_space.self_overlaps(space), cosines(v, v), atol=1e-6)
  expected = [cosines(v[:, [e]], v[:, [e + 1]]).item() for e in range(11)]
  np.testing.assert_allclose(gradient_space.consecutive_overlaps(space), expected, atol=1e-6)


@pytest.mark.parametrize('rank', [1, 3, 5])
def test_known_rank(rng, rank):
  columns = rng.normal(size=(200, rank)) @ rng.normal(size=(rank, 20))
  n95, n99 = (gradient_space.num_components(whole(columns), share) for share in (0.95, 0.99))
  assert n95[0] == n99[0] == 1
  assert (n95 <= n99).all() and n99.max() <= rank
  # Of 40 equally long orthogonal directions, 38 have 95 %.
  basis = rng.normal(size=(400, 40))
  centred = np.linalg.qr(basis - basis.mean(0))[0]
  assert gradient_space.num_components(whole(centred), 0.95)[-1] == 38
  assert gradient_space.num_components(whole(centred), 0.9501)[-1] == 39


def test_no_more_components_than_coordinates(rng):
  columns = rng.normal(size=(3, 10))
  assert gradient_space.num_components(whole(columns), 0.99).max() <= 3


@pytest.mark.parametrize('columns', [np.zeros((5, 3)), np.ones((1, 4)), np.full((6, 2), 0.1)])
def test_without_variance_there_is_one_component(columns):
  space = whole(columns)
  assert set(gradient_space.num_components(space, 0.95)) == {1}
  overlaps = gradient_space.principal_overlaps(space, 0.95)
  assert overlaps.shape == (columns.shape[1], 1) and np.isfinite(overlaps).all()


def test_zero_gradients_overlap_with_nothing(rng):
  columns = rng.normal(size=(9, 3))
  columns[:, 1] = 0
  overlaps = gradient_space.self_overlaps(whole(columns))
  assert overlaps[0, 0] == pytest.approx(1) and not overlaps[1].any()


def test_tensors_add_up_to_the_model(columns):
  spaces = history_of(columns, cuts=(100, 110)).spaces()
  assert [space.size for space in spaces] == [100, 10, 190]
  np.testing.assert_allclose(spaces[1].gram, columns[100:110].T @ columns[100:110], rtol=1e-5)
  for got, expected in zip(gradient_space.merge(spaces), whole(columns), strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_long_vectors_are_summed_in_float64():
  ones = np.ones(3_000_001, np.float32)
  ones[0] = 4096  # Its square and 3,000,000 ones exceed the 24 bits of a float32.
  history = gradient_space.History()
  history.add([ones])
  assert history.spaces()[0].gram.item() == 4096**2 + 3_000_000


def test_refuses_gradients_of_other_sizes():
  history = gradient_space.History()
  assert history.spaces() == []
  history.add([np.zeros(3), np.zeros([2, 2])])
  with pytest.raises(ValueError, match=r'sizes \[3, 4\], found \[3\]'):
    history.add([np.zeros(3)])
  assert len(history) == 1
