"""The LSTM of APF's keyword experiments."""

import tensorflow as tf

from tff_lowrank.models import families


def build_keyword_lstm(
  input_shape: tuple[int, int] = (50, 10),
  num_classes: int = 10,
  *,
  hidden_size: int = 64,
  num_layers: int = 2,
  family: str = 'original',
  gamma: float | None = None,
  tanh: bool = False,
) -> tf.keras.Model:
  """LSTM layers, then a dense layer on the output of the last frame; returns logits.

  Chen et al., Communication-Efficient Federated Learning with Adaptive Parameter Freezing, ICDCS
  2021. For 50 frames of 10 features and 10 keywords: 52,874 parameters. The paper's code has
  53,386, since each of its LSTMs has two biases, which are added.

  Args:
    input_shape: frames, features.
    num_classes: size of the output.
    hidden_size: units of each LSTM.
    num_layers: number of LSTMs.
    family: `'original'`, `'fedpara'`, `'low_rank'` or `'pfedpara'`; only the LSTMs' kernels are
      factorised.
    gamma: in [0, 1], for a factorised family.
    tanh: FedPara's non-linearity, for family `'fedpara'`.
  """
  make = families.LayerFamily(family, gamma, tanh, kernel_initializer='glorot_uniform')
  x = inputs = tf.keras.layers.Input(input_shape)
  for i in range(num_layers):
    x = make.lstm(x, hidden_size, return_sequences=i < num_layers - 1)
  return tf.keras.Model(inputs, make.plain().dense(x, num_classes), name='keyword_lstm')
