import jax
from jax.experimental import enable_x64
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank.execution import hlo
from tff_lowrank.execution import hlo_types
from tff_lowrank.execution import native

CLIENTS = 3


def translated(function, arguments, precision='float32'):
  """A function of TensorFlow in jax; `arguments` have an axis of clients."""
  specs = [tf.TensorSpec(a.shape[1:], a.dtype) for a in arguments]
  traced, _ = native.trace(lambda *a: function(*a), specs)
  return hlo.Function(traced.hlo, precision)


def check(function, *arguments, rtol=1e-5, atol=1e-6):
  """For all clients at once what TensorFlow gives for each; to the bit for integers."""
  with enable_x64():
    found = jax.jit(jax.vmap(translated(function, arguments)))(*arguments)
  for k in range(CLIENTS):
    wanted = tf.nest.flatten(function(*(tf.constant(a[k]) for a in arguments)))
    for f, w in zip(found, wanted, strict=True):
      assert f.dtype == w.dtype.as_numpy_dtype
      np.testing.assert_allclose(f[k], w, rtol=rtol, atol=atol)


@pytest.fixture
def x(rng):
  return rng.normal(size=(CLIENTS, 4, 6)).astype(np.float32)


def test_elements_and_shapes(x):
  def function(x):
    y = tf.concat([tf.sin(x), tf.nn.softplus(x)[:, ::-1]], 0)
    y = tf.pad(tf.transpose(y), [[1, 0], [0, 2]], constant_values=3.0)
    return [
      y,
      tf.round(3 * x),
      tf.where(x > 0, tf.sqrt(tf.abs(x)), x),
      tf.clip_by_value(x, -1, 0.5),
    ]

  check(function, x)


def test_reductions_products_and_cumulative_sums(x, rng):
  def function(x, w):
    products = tf.einsum('ab,bc->ca', x, w)
    return [products, tf.reduce_max(x, 1), tf.math.cumsum(x, 1), tf.argmax(x, 1), tf.norm(x)]

  check(function, x, rng.normal(size=(CLIENTS, 6, 5)).astype(np.float32))


def test_gathers_scatters_and_sorts(x, rng):
  indices = rng.integers(0, 4, (CLIENTS, 7)).astype(np.int32)

  def function(x, i):
    rows = tf.gather(x, i)
    summed = tf.math.unsorted_segment_sum(rows, i, 4)
    written = tf.tensor_scatter_nd_update(x, [[2], [0]], -x[:2])
    values, places = tf.math.top_k(x, 3)
    return [rows, summed, written, values, places, tf.sort(x, 1), tf.argsort(x, 1)]

  check(function, x, indices)


def test_branches_and_loops(x):
  def function(x):
    count = tf.cast(tf.reduce_sum(tf.abs(x)), tf.int32) % 5  # Other for each client.
    varying = tf.while_loop(lambda i, _: i < count, lambda i, y: (i + 1, tf.sin(y) + 1), (0, x))[1]
    fixed = tf.while_loop(lambda i, _: i < 7, lambda i, y: (i + 2, tf.cos(y)), (0, x))
    branched = tf.cond(count > 2, lambda: 2 * x, lambda: x - 1)
    chosen = tf.switch_case(count, [lambda: x + 1, lambda: x + 2, lambda: x + 3])
    return [varying, *fixed, branched, chosen]

  check(function, x)


def test_integers_of_all_sizes_to_the_bit(rng):
  a = rng.integers(0, 2**62, (CLIENTS, 5))

  def function(a):
    b = tf.cast(a, tf.uint64) * tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    b = tf.bitwise.bitwise_xor(b, tf.bitwise.right_shift(b, tf.constant(31, tf.uint64)))
    c = tf.cast(a % 200, tf.uint8)
    return [b, c + c, tf.bitwise.invert(c), tf.cast(a, tf.int32), tf.cast(a, tf.float64)]

  check(function, a, rtol=0, atol=0)


def test_float16_and_bfloat16(x):
  function = lambda x: [  # noqa: E731
    tf.cast(tf.cast(x, dtype) * 3, tf.float32) for dtype in (tf.float16, tf.bfloat16)
  ]
  check(function, x, rtol=1e-2)


def test_values_that_decide_on_shapes_are_refused(x):
  def function(x):
    return [tf.reduce_sum(tf.boolean_mask(x, x > 0))]

  with pytest.raises(hlo_types.UnsupportedError, match='depends on its values'):
    translated(function, [x])(x[0])


def test_sums_are_found(x):
  add = lambda *both: [both[0] + both[2], both[3] + both[1]]  # noqa: E731
  assert translated(add, [x] * 4).is_sum(2)
  assert not translated(lambda *both: [both[0] + both[3], both[1] + both[2]], [x] * 4).is_sum(2)
  assert not translated(lambda a, b: [tf.maximum(a, b)], [x] * 2).is_sum(1)


@pytest.mark.parametrize('precision', hlo.PRECISIONS)
def test_precision_is_asked_for_in_the_program(x, precision):
  function = translated(lambda x: [tf.matmul(x, x, transpose_b=True)], [x], precision)
  text = str(jax.jit(jax.vmap(function)).lower(x).compiler_ir('stablehlo'))
  assert ('HIGHEST' in text) == (precision == 'float32')
  assert ('bf16' in text) == (precision == 'bfloat16')
  found = np.asarray(jax.jit(jax.vmap(function))(x)[0])
  assert found.dtype == np.float32
  error = np.abs(found - x @ x.transpose(0, 2, 1)).max()
  assert 1e-4 < error < 0.1 if precision == 'bfloat16' else error < 1e-5


def test_a_loop_of_known_length_has_no_condition_on_data(x):
  function = translated(
    lambda x: [tf.while_loop(lambda i, _: i < 7, lambda i, y: (i + 1, y @ y), (0, x))[1]],
    [x[:, :, :4]],
  )
  jaxpr = jax.make_jaxpr(jax.vmap(function))(jnp.asarray(x[:, :, :4]))
  assert 'scan' in str(jaxpr) and 'while' not in str(jaxpr)
