"""The LSTM of next-word prediction on Stack Overflow."""

import tensorflow as tf

from tff_lowrank.models import families


def build_word_lstm(
  vocabulary_size: int = 10_004,
  *,
  embedding_size: int = 96,
  hidden_size: int = 670,
  family: str = 'original',
  gamma: float | None = None,
  tanh: bool = False,
) -> tf.keras.Model:
  """Embedding, LSTM, a dense layer of the embedding's size, logits of the next word.

  Integers [batch, time] -> logits [batch, time, vocabulary_size]. Reddi et al., Adaptive Federated
  Optimization, ICLR 2021; 4,050,748 parameters for 10,000 words and four tokens. Token 0 is
  padding.

  Args:
    vocabulary_size: number of tokens, of both the input and the output.
    embedding_size, hidden_size: sizes of the parts.
    family: `'original'`, `'fedpara'`, `'low_rank'` or `'pfedpara'`; all layers except the embedding
      and the output are factorised.
    gamma: in [0, 1], for a factorised family.
    tanh: FedPara's non-linearity, for family `'fedpara'`.
  """
  make = families.LayerFamily(family, gamma, tanh, kernel_initializer='glorot_uniform')
  inputs = tf.keras.layers.Input((None,), dtype=tf.int32)
  x = tf.keras.layers.Embedding(vocabulary_size, embedding_size, mask_zero=True)(inputs)
  x = make.dense(make.lstm(x, hidden_size, return_sequences=True), embedding_size)
  return tf.keras.Model(inputs, make.plain().dense(x, vocabulary_size), name='word_lstm')
