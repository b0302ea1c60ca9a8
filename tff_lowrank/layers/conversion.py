"""The result of converting a model: the new model, and a report on each layer."""

from collections.abc import Collection, Mapping
import dataclasses
import math

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class KernelReport:
  """A report on one factorised kernel.

  layer, kernel: the names of the layer and of the kernel in it.
  shape, rank: the shape of the kernel, and the rank of its factors.
  num_parameters: the number of parameters of its factors.
  fit_error: |K - fit| / |K| of the trained kernel, or None if it was not fitted.
  """

  layer: str
  kernel: str
  shape: tuple[int, ...]
  rank: int
  num_parameters: int
  fit_error: float | None = None

  def __str__(self) -> str:
    error = '' if self.fit_error is None else f', fitted with error {self.fit_error:.2g}'
    return (
      f'{self.layer}: {self.kernel} {list(self.shape)} of {math.prod(self.shape):,} numbers to '
      f'{self.num_parameters:,} at rank {self.rank}{error}'
    )


@dataclasses.dataclass(frozen=True)
class Conversion:
  """A factorised model, and a report on its layers; as a string, a summary.

  kernels: each factorised kernel, in order.
  left: layer name -> the reason why the layer was not converted, in order. If names are not
    unique, they include the models and wrappers around the layer, as in 'encoder/dense'. Inputs,
    models and wrappers themselves are not listed.
  """

  model: tf.keras.Model
  kernels: tuple[KernelReport, ...]
  left: Mapping[str, str]

  @property
  def converted(self) -> tuple[str, ...]:
    """The names of the converted layers, in order."""
    return tuple(dict.fromkeys(kernel.layer for kernel in self.kernels))

  def __str__(self) -> str:
    return '\n'.join(
      [
        f'{_layers(self.converted)} converted:',
        *(f'  {kernel}' for kernel in self.kernels),
        f'{_layers(self.left)} not converted:',
        listed(self.left),
      ]
    ).rstrip()


def _layers(names: Collection[str]) -> str:
  return '1 layer' if len(names) == 1 else f'{len(names)} layers'


def listed(reasons: Mapping[str, str]) -> str:
  """The reasons by layer, one per line."""
  return '\n'.join(f'  {layer}: {reason}' for layer, reason in reasons.items())
