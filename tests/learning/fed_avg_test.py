import numpy as np
import pytest
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


@pytest.mark.parametrize(
  'build, given',
  [
    (learning.build_compressed_fed_avg, dict(codec='top_k(0.5)')),
    (learning.build_compressed_fed_avg, dict(codec='identity', downlink='float16')),
    (learning.build_lbgm_fed_avg, dict(inner='top_k(0.5)')),
    (learning.build_apf_fed_avg, dict(codec='float16')),
    pytest.param(learning.build_fed_prox, dict(codec='top_k(0.5)'), marks=pytest.mark.slow),
    (learning.build_scaffold, dict(codec='top_k(0.5)', num_clients=2)),
    pytest.param(
      learning.build_fed_dyn, dict(codec='top_k(0.5)', num_clients=2), marks=pytest.mark.slow
    ),
  ],
)
def test_builders_take_a_codec_s_text(rng, build, given):
  model = linear.build_model(rng)
  data = [linear.dataset(*linear.examples(rng, n), 4) for n in (4, 8)]
  is_codec = ('codec', 'downlink', 'inner')
  parsed = {k: codecs.parse(v) if k in is_codec else v for k, v in given.items()}
  outputs = []
  for settings in (given, parsed):
    process = build(model, sgd(0.1), sgd(1.0), **settings)
    memory = [process.initialize_client() for _ in data]
    outputs.append(process.next(process.initialize(), memory, data))
  text, codec = outputs
  assert text.reports[0]['uplink'] == codec.reports[0]['uplink']
  for a, b in zip(
    text.state.global_model_weights.trainable, codec.state.global_model_weights.trainable,
    strict=True,
  ):  # fmt: skip
    np.testing.assert_array_equal(a, b)
