import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import models


def test_counts():
  # Embedding 640; LSTMs 4 * 256 * (8 + 256 + 1) and 4 * 256 * (512 + 1); dense 257 * 80.
  assert models.build_char_lstm().count_params() == 640 + 271_360 + 525_312 + 20_560
  # gamma 0: 2 * 3 * (8 + 1024), three times 2 * 16 * (256 + 1024), biases 2 * 1024.
  model = models.build_char_lstm(family='fedpara', gamma=0.0)
  assert model.count_params() == 640 + 6192 + 3 * 40_960 + 2048 + 20_560
  # The paper's ratio of 0.19.
  assert round(model.count_params() / models.build_char_lstm().count_params(), 2) == 0.19


@pytest.mark.parametrize('family, gamma', [('original', None), ('pfedpara', 0.1)])
def test_outputs(family, gamma, rng):
  tokens = rng.integers(1, 20, size=(3, 9))
  common = dict(hidden_size=16, family=family, gamma=gamma)
  assert models.build_char_lstm(20, **common)(tokens).shape == (3, 9, 20)
  assert models.build_char_lstm(20, return_sequences=False, **common)(tokens).shape == (3, 20)
  # With masking, padding at the end changes nothing.
  model = models.build_char_lstm(20, return_sequences=False, mask_zero=True, **common)
  padded = np.concatenate([tokens, np.zeros_like(tokens)], 1)
  np.testing.assert_allclose(model(tokens), model(padded), atol=1e-6)
  assert model.input.dtype == tf.int32
