import numpy as np

from tff_lowrank import models


def test_counts():
  # LSTMs 4 * 64 * (10 + 64 + 1) and 4 * 64 * (64 + 64 + 1), dense 65 * 10.
  assert models.build_keyword_lstm().count_params() == 19_200 + 33_024 + 650
  # The paper's code has a second bias in each LSTM.
  assert 52_874 + 2 * 4 * 64 == 53_386


def test_logits_depend_on_all_frames(rng):
  model = models.build_keyword_lstm((6, 3), 4, hidden_size=8)
  x = rng.normal(size=(2, 6, 3)).astype(np.float32)
  logits = model(x).numpy()
  assert logits.shape == (2, 4)
  for frame in range(6):
    changed = x.copy()
    changed[:, frame] += 1
    assert not np.allclose(model(changed), logits, atol=1e-5)
