"""The training of `benchmarks.device.cases` as one hand-written program; needs only jax.

A client is a `lax.scan` over its batches with plain SGD; the round is a `jax.vmap` over clients and
a mean. Convolutions are patches and a matrix product, which `vmap` makes a batched product, or
XLA's convolutions, which it makes grouped convolutions. LBGM compares each client's update with a
look-back vector, tensor by tensor; APF resets frozen numbers after each step.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

RATE = 0.05
_THRESHOLD = 0.4
_FROZEN = 0.3
_WORDS = 504

Array = Any
Convolution = Callable[[Array, Array, str], Array]
# The weights of one layer, by the last part of their names.
Layers = list[dict[str, Array]]


def native_convolution(x: Array, kernel: Array, padding: str) -> Array:
  numbers = ('NHWC', 'HWIO', 'NHWC')
  return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=numbers)


def patches_convolution(x: Array, kernel: Array, padding: str) -> Array:
  """x: [batch, rows, columns, channels]; kernel: [size, size, channels, filters], size odd."""
  size = kernel.shape[0]
  if padding == 'SAME':
    edge = size // 2
    x = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
  rows, columns = x.shape[1] - size + 1, x.shape[2] - size + 1
  parts = [x[:, i : i + rows, j : j + columns] for i in range(size) for j in range(size)]
  return jnp.concatenate(parts, -1) @ kernel.reshape(-1, kernel.shape[-1])


def _pool(x: Array) -> Array:
  n, rows, columns, channels = x.shape
  return x.reshape(n, rows // 2, 2, columns // 2, 2, channels).max((2, 4))


def _kernel(layer: dict[str, Array]) -> Array:
  """A layer's kernel, composed from FedPara's factors if it has them."""
  if 'kernel' in layer:
    return layer['kernel']

  def term(number: int) -> Array:
    x, y = layer[f'kernel_x{number}'], layer[f'kernel_y{number}']
    if f'kernel_t{number}' not in layer:
      return y @ x.T
    t = layer[f'kernel_t{number}']
    return jnp.einsum('abhw,oa,ib->hwio', t, x, y)

  return term(1) * term(2)


def _dense(x: Array, layer: dict[str, Array]) -> Array:
  return x @ _kernel(layer) + layer['bias']


def _mlp(layers: Layers, x: Array, convolution: Convolution) -> Array:
  del convolution
  return _dense(jax.nn.relu(_dense(x, layers[0])), layers[1])


def _cnn(padding: str) -> Callable[[Layers, Array, Convolution], Array]:
  def apply(layers: Layers, x: Array, convolution: Convolution) -> Array:
    for layer in layers[:2]:
      x = _pool(jax.nn.relu(convolution(x, _kernel(layer), padding) + layer['bias']))
    return _mlp(layers[2:], x.reshape(len(x), -1), convolution)

  return apply


def _group_norm(x: Array, layer: dict[str, Array], groups: int = 2) -> Array:
  parts = x.reshape(*x.shape[:-1], groups, -1)
  axes = (1, 2, 4)
  mean = parts.mean(axes, keepdims=True)
  variance = jnp.square(parts - mean).mean(axes, keepdims=True)
  normal = ((parts - mean) * lax.rsqrt(variance + 1e-3)).reshape(x.shape)
  return normal * layer['gamma'] + layer['beta']


def _vgg(layers: Layers, x: Array, convolution: Convolution) -> Array:
  position = 0
  for block in (2, 2, 3, 3, 3):
    for _ in range(block):
      kernel, norm = layers[position : position + 2]
      x = convolution(x, kernel['kernel'], 'SAME') + kernel['bias']
      x = jax.nn.relu(_group_norm(x, norm))
      position += 2
    x = _pool(x)
  x = jax.nn.relu(_dense(x.reshape(len(x), -1), layers[position]))
  return _mlp(layers[position + 1 :], x, convolution)


def _lstm(layers: Layers, x: Array, convolution: Convolution) -> Array:
  del convolution
  embedding, cell, *dense = layers
  inputs = embedding['embeddings'][x] @ cell['kernel'] + cell['bias']

  def step(carry: tuple[Array, Array], gates: Array) -> tuple[tuple[Array, Array], Array]:
    hidden, memory = carry
    i, f, c, o = jnp.split(gates + hidden @ cell['recurrent_kernel'], 4, -1)
    memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(c)
    hidden = jax.nn.sigmoid(o) * jnp.tanh(memory)
    return (hidden, memory), hidden

  zeros = jnp.zeros((x.shape[0], cell['recurrent_kernel'].shape[0]), inputs.dtype)
  _, hidden = lax.scan(step, (zeros, zeros), jnp.swapaxes(inputs, 0, 1))
  return _dense(_dense(jnp.swapaxes(hidden, 0, 1), dense[0]), dense[1])


_MODELS = dict(A=_cnn('SAME'), B=_mlp, C=_mlp, D=_lstm, vgg=_vgg)
_CLASSES = dict(A=62, D=_WORDS)
HAS_CONVOLUTIONS = ('A', 'cnn', 'lbgm', 'apf', 'fedpara', 'vgg')


@dataclasses.dataclass(frozen=True)
class Training:
  """A round by hand.

  round: a function of `arguments`, to be jitted; clients' arrays have the client as first axis.
  arguments: NumPy arrays: the weights, the clients' inputs and labels, and for LBGM the clients'
    look-back vectors, for APF the frozen mask.
  """

  round: Callable[..., Any]
  arguments: tuple[Any, ...]


def build(
  case: dict[str, Any], *, in_turn: bool = False, patches: bool = True, dtype: str = 'float32'
) -> Training:
  """The training of a case.

  Args:
    case: `name`, `shape` (clients, steps, batch, then the shape of an example) and `weights`, each
      with `name`, `shape` and `stddev`.
    in_turn: One client after the other, in a `lax.scan`, rather than all at once.
    patches: Whether convolutions are patches and a matrix product.
    dtype: The dtype of the arithmetic except the loss; weights are always float32.
  """
  name, (clients, steps, batch, *example) = case['name'], case['shape']
  rng = np.random.default_rng(1)
  weights = [
    (w['stddev'] * rng.standard_normal(w['shape'])).astype(np.float32) for w in case['weights']
  ]
  if name == 'D':
    x = rng.integers(1, _WORDS, (clients, steps, batch, *example)).astype(np.int32)
    y = rng.integers(1, _WORDS, x.shape).astype(np.int32)
  else:
    x = rng.random((clients, steps, batch, *example), dtype=np.float32)
    y = rng.integers(0, _CLASSES.get(name, 10), (clients, steps, batch)).astype(np.int32)
  layers_of = _layout([w['name'] for w in case['weights']])
  convolution = patches_convolution if patches else native_convolution
  apply = _MODELS.get(name, _cnn('VALID'))

  def loss(weights: list[Array], x: Array, y: Array) -> Array:
    if dtype != 'float32':
      weights = [w.astype(dtype) for w in weights]
      x = x if name == 'D' else x.astype(dtype)
    logits = apply(layers_of(weights), x, convolution)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], -1).mean()

  def train(weights: list[Array], x: Array, y: Array, frozen: Any = None) -> list[Array]:
    """The update of a client."""

    def step(current: list[Array], xy: tuple[Array, Array]) -> tuple[list[Array], None]:
      gradients = jax.grad(loss)(current, *xy)
      after = [w - RATE * g for w, g in zip(current, gradients, strict=True)]
      if frozen is not None:
        after = [jnp.where(f, w, a) for f, w, a in zip(frozen, weights, after, strict=True)]
      return after, None

    trained, _ = lax.scan(step, weights, (x, y))
    return [w - t for w, t in zip(weights, trained, strict=True)]

  arguments: tuple[Any, ...] = (weights, x, y)
  if name == 'lbgm':
    client = lambda weights, x, y, memory: _recycle(train(weights, x, y), memory)  # noqa: E731
    memory = [0.01 * rng.random((clients, *w.shape), dtype=np.float32) for w in weights]
    arguments += (memory,)
  else:
    client = lambda weights, x, y, *frozen: (train(weights, x, y, *frozen), ())  # noqa: E731
  shared: tuple[Any, ...] = ()
  if name == 'apf':
    shared = ([rng.random(w.shape) < _FROZEN for w in weights],)
    arguments += shared
  return Training(_round(client, clients, bool(shared), in_turn), arguments)


def _recycle(update: list[Array], memory: list[Array]) -> tuple[list[Array], list[Array]]:
  """The update that LBGM's server adds, and the new look-back vectors."""
  sent, kept = [], []
  for x, last in zip(update, memory, strict=True):
    norm = jnp.vdot(last, last)
    scale = jnp.where(norm > 0, jnp.vdot(x, last) / jnp.where(norm > 0, norm, 1), 0)
    rest = x - scale * last
    is_near = jnp.vdot(rest, rest) <= _THRESHOLD * jnp.vdot(x, x)
    sent.append(jnp.where(is_near, scale * last, x))
    kept.append(jnp.where(is_near, last, x))
  return sent, kept


def _round(
  client: Callable[..., Any], num_clients: int, has_shared: bool, in_turn: bool
) -> Callable[..., Any]:
  """A round: the weights after it, and the clients' state."""

  def run(weights: list[Array], x: Array, y: Array, *others: Any) -> tuple[list[Array], Any]:
    if not in_turn:
      axes = (None, 0, 0, *(None if has_shared else 0 for _ in others))
      updates, memory = jax.vmap(client, axes)(weights, x, y, *others)
      means = [update.mean(0) for update in updates]
    else:

      def add(total: list[Array], of_client: tuple[Any, ...]) -> tuple[list[Array], Any]:
        rest = others if has_shared else of_client[2:]
        update, memory = client(weights, *of_client[:2], *rest)
        return [t + u for t, u in zip(total, update, strict=True)], memory

      zeros = [jnp.zeros_like(w) for w in weights]
      of_clients = (x, y) if has_shared else (x, y, *others)
      total, memory = lax.scan(add, zeros, of_clients)
      means = [t / num_clients for t in total]
    return [w - mean for w, mean in zip(weights, means, strict=True)], memory

  return run


def _layout(names: Sequence[str]) -> Callable[[Sequence[Array]], Layers]:
  """A function from weights of these names, `layer/.../part:0`, to layers."""
  keys = [(n.split('/')[0], n.split('/')[-1].split(':')[0]) for n in names]

  def layers(weights: Sequence[Array]) -> Layers:
    found: dict[str, dict[str, Array]] = {}
    for (layer, part), weight in zip(keys, weights, strict=True):
      found.setdefault(layer, {})[part] = weight
    return list(found.values())

  return layers
