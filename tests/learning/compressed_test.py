import numpy as np
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import codecs
from tff_lowrank import learning

sgd = tff.learning.optimizers.build_sgdm


class Halved(codecs.Identity):
  """What the server decodes is half of what was sent."""

  def decode(self, memory, message):
    return [x / 2 for x in super().decode(memory, message)]


def test_server_steps_on_the_decoded_mean(rng):
  model = linear.build_model(rng)
  clients = [linear.examples(rng, n) for n in (4, 8)]
  data = [linear.dataset(x, y, 4) for x, y in clients]
  process = learning.build_compressed_fed_avg(model, sgd(0.1), sgd(1.0), codec=Halved())
  output = process.next(process.initialize(), [(), ()], data)
  trained = [linear.train(model.initial_weights[0], x, y, 4, 0.1) for x, y in clients]
  got = process.get_model_weights(output.state).trainable
  for initial, a, b, weight in zip(model.initial_weights[0], *trained, got, strict=True):
    mean_update = (4 * (initial - a) + 8 * (initial - b)) / 12
    np.testing.assert_allclose(weight, initial - mean_update / 2, atol=1e-6)
