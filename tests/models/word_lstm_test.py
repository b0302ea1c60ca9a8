import numpy as np

from tff_lowrank import models


def test_counts():
  # Embedding 10,004 * 96; LSTM 4 * 670 * (96 + 670 + 1); dense 671 * 96 and 97 * 10,004.
  parts = 960_384 + 2_055_560 + 64_416 + 970_388
  assert models.build_word_lstm().count_params() == parts == 4_050_748


def test_padding_at_the_end_changes_nothing(rng):
  model = models.build_word_lstm(20, embedding_size=6, hidden_size=8)
  tokens = rng.integers(1, 20, size=(3, 5))
  logits = model(tokens).numpy()
  assert logits.shape == (3, 5, 20)
  padded = model(np.concatenate([tokens, np.zeros_like(tokens)], 1)).numpy()
  np.testing.assert_allclose(padded[:, :5], logits, atol=1e-6)


def test_a_word_is_predicted_from_those_before_it(rng):
  model = models.build_word_lstm(20, embedding_size=6, hidden_size=8)
  tokens = rng.integers(1, 20, size=(1, 5))
  changed = tokens.copy()
  changed[0, 2] = tokens[0, 2] % 19 + 1
  differs = np.any(model(changed).numpy() != model(tokens).numpy(), -1)[0]
  assert differs.tolist() == [False, False, True, True, True]
