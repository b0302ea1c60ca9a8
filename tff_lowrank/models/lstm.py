"""The character LSTM of FedPara's Shakespeare experiments."""

import tensorflow as tf

from tff_lowrank.models import families


def build_char_lstm(
  vocabulary_size: int = 80,
  *,
  embedding_size: int = 8,
  hidden_size: int = 256,
  num_layers: int = 2,
  return_sequences: bool = True,
  mask_zero: bool = False,
  family: str = 'original',
  gamma: float | None = None,
  tanh: bool = False,
) -> tf.keras.Model:
  """Embedding, LSTM layers, logits of the next character: integers [batch, time] -> logits.

  McMahan et al., 2017, and LEAF's Shakespeare model; 817,872 parameters. Only the LSTMs' kernels
  are factorised; at gamma 0 this leaves 0.19 of the parameters, as in FedPara's experiments
  (arXiv 2108.06098). The paper's weight normalisation of its LSTMs is not implemented.

  Args:
    vocabulary_size: number of characters, of both the input and the output.
    embedding_size, hidden_size, num_layers: sizes of the parts.
    return_sequences: whether to return logits [batch, time, vocabulary_size] at each character, or
      only those after the last one, [batch, vocabulary_size].
    mask_zero: whether character 0 is padding.
    family: `'original'`, `'fedpara'`, `'low_rank'` or `'pfedpara'`.
    gamma: in [0, 1], for a factorised family.
    tanh: the paper's non-linearity, for family `'fedpara'`.
  """
  make = families.LayerFamily(family, gamma, tanh, kernel_initializer='glorot_uniform')
  inputs = tf.keras.layers.Input((None,), dtype=tf.int32)
  x = tf.keras.layers.Embedding(vocabulary_size, embedding_size, mask_zero=mask_zero)(inputs)
  for i in range(num_layers):
    x = make.lstm(x, hidden_size, return_sequences=return_sequences or i < num_layers - 1)
  return tf.keras.Model(inputs, make.plain().dense(x, vocabulary_size), name='char_lstm')
