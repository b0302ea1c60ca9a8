"""What a conversion of a model gives: the model, and what became of each of its layers."""

from collections.abc import Collection, Mapping
import dataclasses
import math

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class KernelReport:
  """What became of one kernel.

  layer, kernel: the names of the layer and of the kernel in it.
  shape, rank: of the kernel and of its factors.
  num_parameters: of its factors, in place of the product of `shape`.
  fit_error: |K - fit| / |K| of the trained kernel, or None where it was not fitted.
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
  """A factorised model, and what became of its layers; as a string, a summary.

  kernels: each kernel that was factorised, in order.
  left: why each layer that was not converted was left, by its name, in order; by the names of the
    models and wrappers around it too, as in 'encoder/dense', where another has the same name.
    Models and wrappers stand for their layers, and inputs are no layers here.
  """

  model: tf.keras.Model
  kernels: tuple[KernelReport, ...]
  left: Mapping[str, str]

  @property
  def converted(self) -> tuple[str, ...]:
    """The names of the layers that were converted, in order."""
    return tuple(dict.fromkeys(kernel.layer for kernel in self.kernels))

  def __str__(self) -> str:
    return '\n'.join(
      [
        f'{_layers(self.converted)} converted:',
        *(f'  {kernel}' for kernel in self.kernels),
        f'{_layers(self.left)} left:',
        listed(self.left),
      ]
    ).rstrip()


def _layers(names: Collection[str]) -> str:
  return '1 layer' if len(names) == 1 else f'{len(names)} layers'


def listed(reasons: Mapping[str, str]) -> str:
  """The reasons by layer, a line each."""
  return '\n'.join(f'  {layer}: {reason}' for layer, reason in reasons.items())
