import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import layers
from tff_lowrank.layers import dropout

RATE, KEY = 0.25, -6364136223846793005
BITS_64 = 2**64 - 1


def reference_bits(key, first, count):
  """The upper halves of SplitMix64's numbers, in Python's integers."""
  found = []
  for i in range(first, first + count):
    x = (key + i * 0x9E3779B97F4A7C15) & BITS_64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & BITS_64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & BITS_64
    found.append((x ^ (x >> 31)) >> 32)
  return np.array(found)


def reference(x, key, call, rate=RATE):
  """The output in training of the layer that is called after `call` others."""
  kept = reference_bits(key, call << 32, x.size).reshape(x.shape) >= rate * 2**32
  return np.where(kept, x / (1 - rate), 0)


def drop(x, key, rate=RATE):
  with layers.dropout_key(key):
    return layers.StatelessDropout(rate)(x, training=True)


def test_bits_are_those_of_published_numbers():
  # Of the first three from seed 0, such as Java's SplittableRandom(0).nextLong().
  counter = tf.constant([1, 2, 3], tf.uint64)
  found = dropout.random_bits(tf.constant(0, tf.uint64), counter)
  assert [hex(i) for i in found.numpy()] == ['0xe220a839', '0x6e789e6a', '0x6c45d18']


@pytest.mark.parametrize('compiled', [False, True])
def test_masks_are_the_references(rng, compiled):
  x = rng.normal(size=(5, 3, 4)).astype(np.float32)

  @tf.function(jit_compile=compiled)
  def both(x, key):
    with layers.dropout_key(key):
      return [layers.StatelessDropout(rate)(x, training=True) for rate in (RATE, 0.6)]

  first, second = both(x, tf.constant(KEY, tf.int64))
  np.testing.assert_allclose(first, reference(x, KEY, 0), rtol=1e-6)
  np.testing.assert_allclose(second, reference(x, KEY, 1, 0.6), rtol=1e-6)


def test_masks_of_several_clients_at_once(rng):
  x = rng.normal(size=(3, 7)).astype(np.float32)
  keys = tf.constant([KEY, 1, 2], tf.int64)
  found = tf.vectorized_map(lambda pair: drop(*pair), (x, keys), fallback_to_while_loop=False)
  for one, row, key in zip(found, x, keys, strict=True):
    np.testing.assert_array_equal(one, drop(row, key))


def test_shares_and_scale():
  x = tf.ones([400, 500])
  for rate in (0.1, 0.5, 0.9):
    y = drop(x, 1, rate).numpy()
    share = np.mean(y == 0)
    assert abs(share - rate) < 5 * (rate * (1 - rate) / y.size) ** 0.5
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)


def test_masks_of_other_keys_and_calls_are_independent():
  x = tf.ones([200, 500])
  with layers.dropout_key(7):
    masks = [layers.StatelessDropout(0.5)(x, training=True) for _ in range(2)]
  masks += [drop(x, key, 0.5) for key in (8, 9, -7)]
  found = np.corrcoef([np.ravel(mask) for mask in masks]) - np.eye(len(masks))
  assert np.abs(found).max() < 5 / 100_000**0.5
  np.testing.assert_array_equal(masks[0], drop(x, 7, 0.5))


def test_gradients_are_masked_alike(rng):
  x = tf.constant(rng.normal(size=(6, 5)), tf.float32)
  with tf.GradientTape() as tape:
    tape.watch(x)
    y = drop(x, KEY)
  np.testing.assert_allclose(tape.gradient(y, x), y / x, rtol=1e-6)


def test_what_is_dropped_leaves_no_trace():
  y = drop(tf.fill([100], np.nan), KEY).numpy()
  assert set(np.isnan(y)) == {True, False} and set(y[~np.isnan(y)]) == {0}


def test_outside_training_and_at_rate_0_nothing_happens(rng):
  x = rng.normal(size=(4, 3))
  layer = layers.StatelessDropout(RATE, dtype='float64')
  np.testing.assert_array_equal(layer(x), x)
  np.testing.assert_array_equal(layer(x, training=False), x)
  np.testing.assert_array_equal(layers.StatelessDropout(0, dtype='float64')(x, training=True), x)


def test_training_without_a_key_is_refused():
  layer = layers.StatelessDropout(RATE, name='mine')
  with pytest.raises(ValueError, match="Layer 'mine' needs a key .*dropout_key"):
    layer(tf.ones([2]), training=True)
  drop(tf.ones([2]), KEY)
  with pytest.raises(ValueError, match='needs a key'):
    layer(tf.ones([2]), training=True)


@pytest.mark.parametrize('rate', [-0.1, 1, 1.5, float('nan')])
def test_bad_rates(rate):
  with pytest.raises(ValueError, match='`rate` must be'):
    layers.StatelessDropout(rate)


def keras_model():
  return tf.keras.Sequential(
    [
      tf.keras.layers.Input((12,)),
      tf.keras.layers.Dense(64, 'relu'),
      layers.StatelessDropout(0.3),
      tf.keras.layers.Dense(64, 'relu'),
      layers.StatelessDropout(0.4),
      tf.keras.layers.Dense(4),
    ]
  )


def rates(model):
  return [part.rate for part in model.submodules if isinstance(part, layers.StatelessDropout)]


def outputs(model, x):
  with layers.dropout_key(KEY):
    return model(x, training=True)


def test_saved_models_keep_it(rng, tmp_path):
  model, x = keras_model(), rng.normal(size=(5, 12)).astype(np.float32)
  for name in ('model.keras', 'model.h5'):
    model.save(tmp_path / name)
    loaded = tf.keras.models.load_model(tmp_path / name)
    np.testing.assert_array_equal(outputs(loaded, x), outputs(model, x))


@pytest.mark.parametrize(
  'convert',
  [
    lambda m: layers.to_fedpara(m, gamma=0.1),
    lambda m: layers.to_low_rank(m, gamma=0.1),
    lambda m: layers.to_adapters(m, rank=2),
  ],
)
def test_conversions_keep_it(rng, convert):
  model, x = keras_model(), rng.normal(size=(5, 12)).astype(np.float32)
  twin = convert(model).model
  assert rates(twin) == [0.3, 0.4]
  back = layers.compose(twin)
  assert rates(back) == [0.3, 0.4]
  np.testing.assert_allclose(outputs(back, x), outputs(twin, x), atol=1e-5)
  assert np.abs(outputs(twin, x) - twin(x)).max() > 1e-3
