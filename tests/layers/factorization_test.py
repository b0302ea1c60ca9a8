"""Composition against sums written from the equations; gradients, ranks and starts in float64."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank.layers import factorization as lib
from tff_lowrank.layers import ranks

MATRIX, CONVOLUTION = (5, 4), (2, 3, 5, 4)
CASES = [
  (MATRIX, 'matrix'),
  (CONVOLUTION, 'matrix'),
  (CONVOLUTION, 'tucker'),
  ((3, 5, 4), 'tucker'),
  ((2, 1, 3, 5, 4), 'tucker'),
]
KINDS = {
  'fedpara': lambda **k: lib.Hadamard(**k),
  'tanh': lambda **k: lib.Hadamard(tanh=True, **k),
  'pfedpara': lambda **k: lib.Hadamard(personal=True, **k),
  'low_rank': lambda **k: lib.LowRank(**k),
  'adapter': lambda **k: lib.Adapter(scale=0.7, **k),
}
ALL = list(itertools.product(KINDS, CASES))


def random_factors(factorization, shape, rng):
  return {name: rng.normal(size=s) for name, s in factorization.shapes(shape).items()}


def term_by_loops(factors, suffix, shape, rank):
  """One low-rank term, entry by entry."""
  x, y = factors[f'x{suffix}'], factors[f'y{suffix}']
  term = np.zeros(shape)
  for index in np.ndindex(*shape):
    *window, i, o = index
    if f't{suffix}' in factors:
      core = factors[f't{suffix}'][(slice(None), slice(None), *window)]
      term[index] = sum(core[a, b] * x[o, a] * y[i, b] for a in range(rank) for b in range(rank))
    else:
      row = np.ravel_multi_index((*window, i), shape[:-1])
      term[index] = sum(x[o, r] * y[row, r] for r in range(rank))
  return term


def kernel_by_loops(kind, factors, shape, rank):
  factors = {name.replace('personal_', ''): value for name, value in factors.items()}
  first = term_by_loops(factors, '1', shape, rank)
  if kind == 'low_rank':
    return first
  second = term_by_loops(factors, '2', shape, rank)
  return {
    'fedpara': first * second,
    'tanh': np.tanh(first) * np.tanh(second),
    'pfedpara': first * (second + 1),
    'adapter': factors.get('base', np.zeros(1)).reshape(shape if kind == 'adapter' else -1)
    + 0.7 * first * second,
  }[kind]


@pytest.mark.parametrize('kind, case', ALL)
def test_composition_by_loops(kind, case, rng):
  shape, form = case
  factorization = KINDS[kind](rank=3, form=form)
  factors = random_factors(factorization, shape, rng)
  composed = factorization.compose(factors)
  np.testing.assert_allclose(
    tf.reshape(composed, shape), kernel_by_loops(kind, factors, shape, 3), rtol=1e-12
  )


def test_tucker_composition_is_the_papers_einsum(rng):
  factorization = lib.Hadamard(rank=3, form='tucker')
  f = random_factors(factorization, (3, 2, 6, 7), rng)
  one, two = (np.einsum('xyhw,ox,iy->hwio', f[f't{k}'], f[f'x{k}'], f[f'y{k}']) for k in '12')
  np.testing.assert_allclose(factorization.compose(f), one * two, rtol=1e-12)


@pytest.mark.parametrize('kind, case', ALL)
def test_gradients_by_finite_differences(kind, case, rng):
  """Every entry of every factor, t1 and t2 included, against central differences in float64."""
  shape, form = case
  factorization = KINDS[kind](rank=2, form=form)
  factors = random_factors(factorization, shape, rng)
  cotangent = rng.normal(size=factorization.compose(factors).shape)

  def objective(factors):
    return tf.reduce_sum(cotangent * factorization.compose(factors))

  tensors = {name: tf.constant(value) for name, value in factors.items()}
  with tf.GradientTape() as tape:
    tape.watch(tensors)
    value = objective(tensors)
  for name, gradient in tape.gradient(value, tensors).items():
    numeric, step = np.zeros_like(factors[name]), 1e-6
    for index in np.ndindex(*numeric.shape):
      for sign in (1, -1):
        moved = factors | {name: factors[name].copy()}
        moved[name][index] += sign * step
        numeric[index] += sign * float(objective(moved)) / (2 * step)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize('rank', [1, 2, 3, 5, 7])
def test_matrix_rank_of_random_factors(rank, rng):
  m, n = 30, 20
  for kind, bound in [
    ('fedpara', rank**2),
    ('pfedpara', rank * (rank + 1)),
    ('low_rank', rank),
  ]:
    factorization = KINDS[kind](rank=rank)
    kernel = factorization.compose(random_factors(factorization, (m, n), rng)).numpy()
    assert np.linalg.matrix_rank(kernel) == min(bound, m, n), kind


def test_full_rank_of_the_papers_example(rng):
  factorization = lib.Hadamard(rank=10)
  for _ in range(20):
    kernel = factorization.compose(random_factors(factorization, (100, 100), rng)).numpy()
    assert np.linalg.matrix_rank(kernel) == 100


@pytest.mark.parametrize('rank', [1, 2, 3])
def test_rank_of_unfolded_convolutions(rank, rng):
  shape = (3, 3, 12, 14)
  for kind, bound in [
    ('fedpara', rank**2),
    ('pfedpara', rank * (rank + 1)),
    ('low_rank', rank),
  ]:
    factorization = KINDS[kind](rank=rank, form='tucker')
    kernel = factorization.compose(random_factors(factorization, shape, rng)).numpy()
    for axis in (2, 3):
      unfolded = np.moveaxis(kernel, axis, 0).reshape(shape[axis], -1)
      assert np.linalg.matrix_rank(unfolded) == min(bound, shape[axis]), kind


def test_tanh_voids_the_bound(rng):
  factorization = lib.Hadamard(rank=7, tanh=True)
  kernel = factorization.compose(random_factors(factorization, (64, 64), rng)).numpy()
  assert np.linalg.matrix_rank(kernel) == 64  # Above 7^2.


@pytest.mark.parametrize('kind, case', ALL)
def test_shapes_have_the_counted_parameters(kind, case):
  shape, form = case
  factorization = KINDS[kind](rank=3, form=form)
  shapes = factorization.shapes(shape)
  total = sum(np.prod(s) for name, s in shapes.items() if name != lib.BASE)
  assert total == ranks.count(shape, 3, form, len(factorization.terms))


def start_stddev(factorization, shape, rng, variance=None):
  variance = 2 / np.prod(shape[:-1]) if variance is None else variance
  stddevs = factorization.stddevs(shape, variance)
  factors = {
    name: stddevs[name] * rng.normal(size=s) for name, s in factorization.shapes(shape).items()
  }
  return factorization.compose(factors).numpy().std() / np.sqrt(variance)


@pytest.mark.parametrize('shape', [(3, 3, 64, 64), (3, 3, 128, 256), (784, 256), (5, 5, 20, 50)])
@pytest.mark.parametrize('kind', ['fedpara', 'tanh', 'pfedpara', 'low_rank'])
def test_balanced_start_has_the_plain_variance(shape, kind, rng):
  form = 'tucker' if len(shape) == 4 else 'matrix'
  rank = ranks.rank_for_gamma(shape, 0.1, form)
  factorization = KINDS[kind](rank=rank, form=form)
  # The entries share factors: the mean over several draws is within 5 %, not each draw.
  mean = np.sqrt(np.mean([start_stddev(factorization, shape, rng) ** 2 for _ in range(30)]))
  assert 0.95 < mean < 1.05


@pytest.mark.parametrize(
  'initialization, expected',
  [('he_fan_in', (0.041, 0.014, 0.008)), ('he_fan_out', (1.37, 0.97, 0.82))],
)
def test_published_starts_have_the_deviations_worked_out_for_them(initialization, expected, rng):
  # Relative to He's, at gamma 0.1, for VGG's (outputs, inputs).
  for (outputs, inputs), wanted in zip([(64, 64), (256, 128), (512, 512)], expected, strict=True):
    shape = (3, 3, inputs, outputs)
    rank = ranks.rank_for_gamma(shape, 0.1, 'tucker')
    factorization = lib.Hadamard(rank=rank, form='tucker', initialization=initialization)
    s = factorization.stddevs(shape, 0.0)
    # Each term has variance R^2 times its factors'; the product, the product of these.
    got = (rank * s['t1'] * s['x1'] * s['y1']) ** 2 / np.sqrt(2 / (9 * inputs))
    np.testing.assert_allclose(got, wanted, rtol=0.06)


def test_published_starts_of_dense_layers():
  # Flower's fan_out at 784 -> 256, rank 56: W has 2 % of He's deviation, pFedPara's W1 66 %.
  s = lib.Hadamard(rank=56, initialization='he_fan_out').stddevs((784, 256), 0.0)
  w1 = np.sqrt(56) * s['x1'] * s['y1']
  he = np.sqrt(2 / 784)
  np.testing.assert_allclose([w1**2 / he, w1 / he], [0.022, 0.66], rtol=0.01)
  s = lib.Hadamard(rank=56, initialization='he_fan_in').stddevs((784, 256), 0.0)
  np.testing.assert_allclose([s['x1'], s['y2']], np.sqrt(2 / 56))


def test_adapter_starts_at_zero_and_learns(rng):
  factorization = lib.Adapter(rank=3)
  stddevs = factorization.stddevs(MATRIX, 1.0)
  shapes = factorization.shapes(MATRIX)
  factors = {name: tf.constant(stddevs[name] * rng.normal(size=s)) for name, s in shapes.items()}
  base = rng.normal(size=MATRIX)
  factors['base'] = tf.constant(base)
  with tf.GradientTape() as tape:
    tape.watch(factors)
    kernel = factorization.compose(factors)
    loss = tf.reduce_sum(kernel**2)
  np.testing.assert_array_equal(kernel, base)
  gradients = tape.gradient(loss, factors)
  assert np.abs(gradients['x2']).max() > 0.1
  assert all(np.abs(gradients[name]).max() == 0 for name in ('x1', 'y1', 'y2'))


def test_two_zero_factors_are_a_dead_saddle(rng):
  """Why factors start away from zero: with x2 = y2 = 0 in W1 * W2 nothing moves."""
  factorization = lib.Hadamard(rank=2)
  factors = {k: tf.constant(v) for k, v in random_factors(factorization, MATRIX, rng).items()}
  for zeros, moves in [(('x2',), True), (('x2', 'y2'), False)]:
    values = factors | {name: tf.zeros_like(factors[name]) for name in zeros}
    with tf.GradientTape() as tape:
      tape.watch(values)
      loss = tf.reduce_sum((factorization.compose(values) - 1.0) ** 2)
    gradients = tape.gradient(loss, values)
    assert any(np.abs(g).max() > 0 for g in gradients.values()) == moves


def test_personal_names():
  personal = lib.Hadamard(rank=2, form='tucker', personal=True).shapes((3, 3, 5, 4))
  assert list(personal) == ['t1', 'x1', 'y1', 'personal_t2', 'personal_x2', 'personal_y2']
  assert [lib.is_personal(f'layer/kernel_{name}:0') for name in personal] == 3 * [False] + 3 * [
    True
  ]
  # A layer's own name does not count.
  assert not lib.is_personal('personal_layer/kernel_x1:0')
  assert list(lib.Hadamard(rank=2).shapes((5, 4))) == ['x1', 'y1', 'x2', 'y2']


def test_refuses_bad_arguments():
  with pytest.raises(ValueError, match='`rank` must be at least 1, found 0'):
    lib.Hadamard(rank=0)
  with pytest.raises(ValueError, match='`initialization` must be one of'):
    lib.LowRank(rank=1, initialization='he')
  with pytest.raises(ValueError, match='needs a kernel with 3 to 5 axes'):
    lib.Hadamard(rank=1, form='tucker').shapes((3, 4))
