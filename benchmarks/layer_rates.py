"""Compares the change of a kernel by a step on its factors with a step on the kernel itself.

  python -m benchmarks.layer_rates

Let G be the gradient with respect to the kernel, and J the Jacobian of the kernel with respect to
its factors. A step of gradient descent on the factors with rate eta changes the kernel by
-eta J J^T G to first order; a step on the kernel itself by -eta G. Prints two numbers of J J^T at
the initial weights: the largest eigenvalue, by power iteration, which bounds the stable learning
rates, and the mean eigenvalue, from random probes, which is the speed of learning. Both are 1 for
a plain kernel.
"""

from collections.abc import Callable

from absl import app
import tensorflow as tf

from tff_lowrank import layers
from tff_lowrank.layers import kernel as kernel_lib

_ITERATIONS = 40
_PROBES = 5

# Name -> the layer and the shape of its input.
LAYERS = {
  'dense 784 x 256': ('Dense', dict(units=256), (None, 784)),
  'conv 3 x 3 x 64 x 64': ('Conv2D', dict(filters=64, kernel_size=3), (None, 32, 32, 64)),
}
# Name -> the layers' prefix, their arguments, which factors are trained.
FAMILIES = {
  'low rank': ('LowRank', {}, lambda name: True),
  'fedpara': ('FedPara', {}, lambda name: True),
  'pfedpara, global': ('FedPara', dict(personal=True), lambda name: not layers.is_personal(name)),
  'pfedpara, personal': ('FedPara', dict(personal=True), layers.is_personal),
}


def movement(
  kernel: kernel_lib.FactoredKernel, moves: Callable[[str], bool] = lambda name: True
) -> tuple[float, float]:
  """The largest and the mean eigenvalue of J J^T, for the trained factors that `moves` names."""
  factors = [v for name, v in kernel.factors.items() if v.trainable and moves(name)]

  @tf.function
  def moved(gradient):
    with tf.GradientTape() as tape:
      along = tf.reduce_sum(kernel.compose() * gradient)
    step = tape.gradient(along, factors)
    with tf.autodiff.ForwardAccumulator(factors, step) as accumulator:
      composed = kernel.compose()
    return accumulator.jvp(composed)

  def noise(i):
    return tf.random.stateless_normal(kernel.shape, [0, i])

  direction, largest = noise(0), 0.0
  for _ in range(_ITERATIONS):
    direction = moved(direction / tf.norm(direction))
    largest = float(tf.norm(direction))
  probes = [noise(1 + i) for i in range(_PROBES)]
  mean = sum(float(tf.reduce_sum(p * moved(p)) / tf.reduce_sum(p * p)) for p in probes) / _PROBES
  return largest, mean


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError('No arguments but flags are taken.')
  print('| layer | family | gamma | largest | mean |')
  print('|---|---|---:|---:|---:|')
  for name, (kind, arguments, shape) in LAYERS.items():
    for family, (prefix, options, moves) in FAMILIES.items():
      for gamma in (0.1, 0.5, 0.9):
        tf.keras.utils.set_random_seed(1)
        layer = getattr(layers, prefix + kind)(**arguments, **options, gamma=gamma)
        layer.build(shape)
        largest, mean = movement(layer.factored_kernels['kernel'], moves)
        print(f'| {name} | {family} | {gamma} | {largest:.2g} | {mean:.2g} |', flush=True)


if __name__ == '__main__':
  app.run(main)
