"""Tests of `execution.portable`."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import exported
from tff_lowrank.execution import native
from tff_lowrank.execution import portable


def run(program, *arguments):
  executable = exported.Executable(program.artifact, jax.devices('cpu')[0])
  return exported.to_host(executable(executable.put(arguments)))


def lowered(function, *arguments, **settings):
  """The text and the bytecode of jax's StableHLO."""
  module = jax.jit(function, **settings).lower(*arguments).compiler_ir('stablehlo')
  bytecode = io.BytesIO()
  module.operation.write_bytecode(bytecode)
  return str(module), bytecode.getvalue()


def test_tuple_of_tensorflow_s_bridge_is_taken_apart(rng):
  function = lambda a, n: [tf.linalg.matvec(a, a[0]), n + 1]  # noqa: E731
  traced, _ = native.trace(function, [tf.TensorSpec([3, 3]), tf.TensorSpec([2], tf.int64)])
  module = traced.module
  assert 'stablehlo.tuple' in module
  program = portable.make_portable(module)
  assert program.arguments == [([3, 3], 'float32'), ([2], 'int64')]
  assert program.results == [([3], 'float32'), ([2], 'int64')]
  a = rng.random((3, 3), dtype=np.float32)
  product, number = run(program, a, np.array([1, 2**40]))
  np.testing.assert_allclose(product, a @ a[0], rtol=1e-6)
  np.testing.assert_array_equal(number, [2, 2**40 + 1])


@pytest.mark.parametrize('form', [0, 1], ids=['text', 'bytecode'])
def test_program_of_jax(rng, form):
  x = rng.random((4, 4), dtype=np.float32)
  module = lowered(lambda x, y: (x @ y, -y), x, x)[form]
  program = portable.make_portable(module)
  product, negative = run(program, x, x)
  np.testing.assert_allclose(product, x @ x, rtol=1e-6)
  np.testing.assert_array_equal(negative, -x)


def test_arguments_can_be_given_again_though_they_were_donated(rng):
  x = rng.random((4,), dtype=np.float32)
  module, _ = lowered(lambda x: x + 1, x, donate_argnums=0)
  assert 'aliasing' in module
  executable = exported.Executable(portable.make_portable(module).artifact, jax.devices('cpu')[0])
  arguments = executable.put([x])
  for _ in range(2):
    np.testing.assert_array_equal(executable(arguments)[0], x + 1)


def test_operations_that_xla_itself_does_not_have(rng):
  x = rng.uniform(-0.9, 0.9, (5, 6)).astype(np.float32)
  function = lambda x: (jax.lax.erf_inv(x), jax.lax.top_k(x, 2)[1])  # noqa: E731
  module, _ = lowered(function, x)
  assert 'chlo.erf_inv' in module
  inverse, indices = run(portable.make_portable(module), x)
  np.testing.assert_allclose(inverse, function(x)[0], rtol=1e-5)
  np.testing.assert_array_equal(indices, np.argsort(-x, axis=1)[:, :2])


def test_precision_is_read_and_set(rng):
  x = jnp.ones((4, 4))
  plain, _ = lowered(lambda x: jnp.tanh(x @ x) @ x, x)
  full, _ = lowered(lambda x: jnp.dot(x, x, precision='highest'), x)
  mixed, _ = lowered(lambda x: jnp.dot(x, x, precision='highest') @ x, x)
  without, _ = lowered(lambda x: x + x, x)
  found = [portable.make_portable(m).precision for m in (plain, full, mixed, without)]
  assert found == ['default', 'highest', 'mixed', 'none']
  for module in (plain, mixed):
    assert portable.make_portable(module, 'highest').precision == 'highest'
  assert portable.make_portable(full, 'default').precision == 'default'


def test_precision_is_set_in_loops_and_of_convolutions():
  function = lambda x, k: jax.lax.fori_loop(  # noqa: E731
    0, 3, lambda i, x: jax.lax.conv(x, k, (1, 1), 'SAME'), x
  )
  module, _ = lowered(function, jnp.ones((1, 1, 4, 4)), jnp.ones((1, 1, 3, 3)))
  assert portable.make_portable(module).precision == 'default'
  program = portable.make_portable(module, 'highest')
  assert program.precision == 'highest'
  inside = native_text(program.artifact)
  assert inside.count('HIGHEST') == 2 and 'DEFAULT' not in inside


def native_text(artifact):
  from jaxlib import xla_client

  return xla_client._xla.mlir.deserialize_portable_artifact(artifact)


def test_chlo_is_lowered_where_it_can_be(rng):
  x = rng.uniform(-0.9, 0.9, (5, 6)).astype(np.float32)
  module, _ = lowered(jax.lax.erf_inv, x)
  program = portable.make_portable(module)
  assert 'chlo' not in native_text(program.artifact)
  np.testing.assert_allclose(run(program, x)[0], jax.lax.erf_inv(x), rtol=1e-5)


def test_custom_dialects_have_no_portable_form():
  module = """
module {
  func.func @main(%a: tensor<2xf32>) -> tensor<2xf32> {
    %b = arith.addf %a, %a : tensor<2xf32>
    return %b : tensor<2xf32>
  }
}
"""
  with pytest.raises(ValueError, match='arith.addf'):
    portable.make_portable(module)
