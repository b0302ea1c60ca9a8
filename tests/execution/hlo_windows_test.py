import jax
import numpy as np
import pytest
import tensorflow as tf

from tests.execution import hlo_test


def with_gradients(function):
  def run(*arguments):
    with tf.GradientTape() as tape:
      tape.watch(arguments)
      result = function(*arguments)
      loss = tf.reduce_sum(tf.sin(result))
    return [result, *tape.gradient(loss, arguments)]

  return run


def noise(rng, *shape):
  return rng.normal(size=(hlo_test.CLIENTS, *shape)).astype(np.float32)


def check(function, *arguments):
  hlo_test.check(tf.function(with_gradients(function), jit_compile=True), *arguments, atol=1e-4)


@pytest.mark.parametrize('padding', ['SAME', 'VALID'])
@pytest.mark.parametrize('stride,dilation', [(1, 1), (2, 1), (3, 1), (1, 2)])
@pytest.mark.parametrize('size', [1, 2, 3])
def test_convolutions(rng, size, stride, dilation, padding):
  convolve = lambda x, w: tf.nn.conv2d(x, w, stride, padding, dilations=dilation)  # noqa: E731
  check(convolve, noise(rng, 2, 7, 8, 3), noise(rng, size, size, 3, 4))


@pytest.mark.parametrize('stride', [1, 2])
def test_depthwise_and_grouped_convolutions(rng, stride):
  depthwise = lambda x, w: tf.nn.depthwise_conv2d(x, w, [1, stride, stride, 1], 'SAME')  # noqa: E731
  check(depthwise, noise(rng, 2, 6, 6, 3), noise(rng, 3, 3, 3, 2))
  grouped = lambda x, w: tf.nn.conv2d(x, w, stride, 'SAME')  # noqa: E731
  check(grouped, noise(rng, 2, 6, 6, 6), noise(rng, 3, 3, 3, 4))


def test_convolutions_of_one_axis_and_transposed(rng):
  one_axis = lambda x, w: tf.nn.conv1d(x, w, 2, 'SAME')  # noqa: E731
  check(one_axis, noise(rng, 2, 8, 3), noise(rng, 3, 3, 4))
  back = lambda x, w: tf.nn.conv2d_transpose(x, w, [2, 8, 8, 4], 2, 'SAME')  # noqa: E731
  check(back, noise(rng, 2, 4, 4, 3), noise(rng, 3, 3, 4, 3))


@pytest.mark.parametrize('pool', [tf.nn.max_pool2d, tf.nn.avg_pool2d])
@pytest.mark.parametrize(
  'size,stride,padding', [(2, 2, 'VALID'), (3, 2, 'SAME'), (3, 1, 'SAME'), (3, 2, 'VALID')]
)
def test_pooling_with_ties(rng, pool, size, stride, padding):
  x = np.round(2 * noise(rng, 2, 7, 9, 3)) / 2
  check(lambda x: pool(x, size, stride, padding), x)


def test_the_program_has_no_grouped_convolution_and_no_scatter(rng):
  def function(x, w):
    return tf.nn.max_pool2d(tf.nn.conv2d(x, w, 1, 'SAME'), 2, 2, 'SAME')

  arguments = noise(rng, 2, 6, 6, 3), noise(rng, 3, 3, 3, 4)
  translated = hlo_test.translated(with_gradients(function), arguments)
  text = str(jax.jit(jax.vmap(translated)).lower(*arguments).compiler_ir('stablehlo'))
  assert 'dot_general' in text
  assert not any(f'stablehlo.{name}' in text for name in ('convolution', 'scatter', 'select_and'))
