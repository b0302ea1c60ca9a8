"""What conversions report: each layer converted, or left with the reason."""

import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import layers

L = tf.keras.layers


def images_model():
  return tf.keras.Sequential(
    [
      L.InputLayer((12, 12, 3)),
      L.Conv2D(16, 3, name='first'),
      L.DepthwiseConv2D(3, name='narrow'),
      L.Conv2D(40, 3, name='second'),
      L.DepthwiseConv2D(3, name='wide'),
      L.Conv2D(40, 3, groups=40, padding='same', name='each'),
      L.SeparableConv2D(32, 3, name='separable'),
      L.GroupNormalization(4, name='norm'),
      L.Conv2DTranspose(8, 3, name='transposed'),
      L.Reshape((16, 8), name='rows'),
      L.TimeDistributed(L.Dense(8, name='tiny'), name='wrapper'),
      L.Flatten(name='flat'),
      L.Dense(8, kernel_constraint='non_neg', name='positive'),
      layers.FedParaDense(8, rank=1, name='done'),
      L.Dense(60, name='kept'),
    ]
  )


LEFT = {
  # r = 3: 2 * 3 * (9 + 16) for 9 * 16.
  'narrow': 'it would not get smaller: 150 numbers instead of 144 in its kernels',
  'norm': 'GroupNormalization has no factorised form',
  'transposed': 'Conv2DTranspose has no factorised form',
  'rows': 'it has no weights',
  # r = 3: 2 * 3 * (8 + 8) for 64.
  'tiny': 'it would not get smaller: 96 numbers instead of 64 in its kernels',
  'flat': 'it has no weights',
  'positive': 'it has a `kernel_constraint`',
  'done': 'it has factors already',
  'kept': 'it is named in `skip`',
}


def test_what_is_left_and_why():
  conversion = layers.to_fedpara(images_model(), gamma=0.0, skip=['kept'])
  assert conversion.converted == ('first', 'second', 'wide', 'each', 'separable')
  assert conversion.left == LEFT
  assert list(conversion.left) == list(LEFT)
  assert [(k.kernel, k.shape, k.rank, k.num_parameters) for k in conversion.kernels[2:]] == [
    # As matrices of 9 rows and 40 columns, groups of one input like a depthwise kernel.
    ('depthwise_kernel', (3, 3, 40, 1), 3, 294),
    ('kernel', (3, 3, 1, 40), 3, 294),
    ('depthwise_kernel', (3, 3, 40, 1), 3, 294),
    ('pointwise_kernel', (1, 1, 40, 32), 6, 864),
  ]
  low_rank = layers.to_low_rank(images_model(), gamma=0.0, skip=['kept'])
  assert (low_rank.converted, low_rank.left) == (conversion.converted, conversion.left)


def test_left_for_its_size_at_this_gamma():
  """A window of 3 never gets smaller at r_min 2: 4 (3 + 12) for 36; the rest does, at gamma 0."""
  model = tf.keras.Sequential([L.InputLayer((9, 12)), L.SeparableConv1D(30, 3, name='it')])
  # Of 12 x 30, r_min = r_max = 4 costs 336; 60 + 336 for 36 + 360.
  with pytest.raises(ValueError, match='it would not get smaller: 396 numbers instead of 396'):
    layers.to_fedpara(model, gamma=0.0)
  model = tf.keras.Sequential([L.InputLayer((9, 12)), L.SeparableConv1D(60, 3, name='it')])
  # r_min = 4: 60 + 576 for 36 + 720; r_max = 5: 60 + 720.
  assert layers.to_fedpara(model, gamma=0.0).converted == ('it',)
  with pytest.raises(ValueError, match='it would not get smaller: 780 numbers instead of 756'):
    layers.to_fedpara(model, gamma=1.0)


def test_left_by_budget():
  left = layers.to_fedpara(images_model(), budget=0.2).left
  # Rank 1 costs 2 * (9 + 40) = 98 of 360.
  assert left['wide'] == 'no factors of `depthwise_kernel` have at most 0.2 of its 360 numbers'
  assert left['separable'] == left['wide']


def test_adapters_report():
  conversion = layers.to_adapters(images_model(), 2, skip=['first'], trainable=['kept'])
  assert conversion.converted == ('narrow', 'second', 'wide', 'each', 'separable', 'tiny')
  assert conversion.left == {
    'first': 'it is named in `skip`',
    **{name: LEFT[name] for name in ('norm', 'transposed', 'rows', 'flat', 'positive', 'done')},
    'kept': 'it is named in `trainable`, and is fully trained',
  }


def test_summary():
  model = tf.keras.Sequential(
    [L.InputLayer((64,)), L.Dense(32, name='hidden'), L.ReLU(name='relu'), L.Dense(2, name='head')]
  )
  assert str(layers.to_fedpara(model, gamma=0.0)) == (
    '1 layer converted:\n'
    '  hidden: kernel [64, 32] of 2,048 numbers to 1,152 at rank 6\n'
    '2 layers not converted:\n'
    '  relu: it has no weights\n'
    '  head: it would not get smaller: 136 numbers instead of 64 in its kernels'
  )
  fitted = layers.to_fedpara(
    model, budget=1.0, skip=['head'], from_trained_weights=True, fit_iterations=0
  )
  error = fitted.kernels[0].fit_error
  assert f'2,048 numbers to 1,920 at rank 10, fitted with error {error:.2g}\n' in str(fitted)


@pytest.mark.parametrize(
  'convert',
  [
    lambda m: layers.to_fedpara(m, gamma=0.1),
    lambda m: layers.to_low_rank(m, budget=0.1, from_trained_weights=True),
    lambda m: layers.to_adapters(m, 2, skip=['first', 'second']),
  ],
)
def test_a_model_of_which_nothing_is_converted_is_refused(convert):
  model = tf.keras.Sequential(
    [
      L.InputLayer((6,)),
      L.Dense(4, name='first'),
      L.ReLU(name='relu'),
      L.Dense(2, name='second'),
    ]
  )
  with pytest.raises(
    ValueError, match=r'no layer that can be converted:\n  first: .*\n  relu: .*\n  second: '
  ):
    convert(model)


def test_layers_of_equal_names_are_told_apart():
  def encoder(name):
    return tf.keras.Sequential([L.InputLayer((4,)), L.Dense(4, name='same')], name=name)

  x = tf.keras.Input((4,))
  y = L.Dense(50, name='head')(L.Add(name='sum')([encoder('one')(x), encoder('two')(x)]))
  conversion = layers.to_fedpara(tf.keras.Model(x, y), budget=1.0, skip=['one', 'two'])
  assert list(conversion.left) == ['same', 'two/same', 'sum']


def test_conversions_do_not_touch_the_model():
  model = images_model()
  before = model.get_weights()
  for conversion in (layers.to_fedpara(model, gamma=0.2), layers.to_adapters(model, 2)):
    conversion.model.set_weights([0 * w for w in conversion.model.get_weights()])
  for one, other in zip(model.get_weights(), before, strict=True):
    np.testing.assert_array_equal(one, other)
