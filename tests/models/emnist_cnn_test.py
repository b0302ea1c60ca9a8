import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import layers
from tff_lowrank import models


# Convolutions 10 * 32 and 289 * 64, dense 9,217 * 128 and 129 * classes.
@pytest.mark.parametrize('num_classes, count', [(10, 1_199_882), (62, 1_206_590)])
def test_counts(num_classes, count):
  model = models.build_emnist_cnn(num_classes)
  assert model.count_params() == count == 320 + 18_496 + 1_179_776 + 129 * num_classes
  assert model.output_shape == (None, num_classes)


def test_it_is_the_model_of_tffs_baseline(rng):
  task = tff.simulation.baselines.emnist.create_character_recognition_task(
    tff.simulation.baselines.ClientSpec(num_epochs=1, batch_size=1),
    model_id='cnn_dropout',
    use_synthetic_data=True,
  )
  theirs = task.model_fn()
  x = rng.random((3, 28, 28, 1)).astype(np.float32)
  weights = [variable.numpy() for variable in theirs.trainable_variables]
  ours = models.build_emnist_cnn(62)
  assert [w.shape for w in weights] == [w.shape for w in ours.get_weights()]
  ours.set_weights(weights)
  wanted = theirs.predict_on_batch(x, training=False)
  np.testing.assert_allclose(tf.nn.softmax(ours(x)), wanted, atol=1e-5)


@pytest.mark.parametrize('family, gamma', [('original', None), ('fedpara', 0.1), ('low_rank', 0.1)])
def test_dropout_is_where_the_paper_has_it(family, gamma):
  model = models.build_emnist_cnn(family=family, gamma=gamma)
  parts = list(zip(model.layers, model.layers[1:], strict=False))
  found = [(p.output_shape[1:], d.rate) for p, d in parts if isinstance(d, layers.StatelessDropout)]
  assert found == [((12, 12, 64), 0.25), ((128,), 0.5)]
