import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.execution import blocks
from tff_lowrank.execution import loops


def run(block, **env):
  return blocks.Compiler().compile(block)({blocks.ENGINE: loops.Engine(), **env})


INT = tff.TensorType(np.int32)


def test_blocks_bind_and_shadow_names():
  x = tff.framework.Reference('x', INT)
  pair = tff.framework.Struct([('a', x), ('b', tff.framework.Literal(np.int32(7), INT))])
  first = tff.framework.Selection(tff.framework.Reference('p', pair.type_signature), name='b')
  block = tff.framework.Block([('p', pair), ('x', first)], x)
  assert int(run(block, x=3)) == 7
  function = tff.framework.Lambda('x', INT, block)
  assert int(run(tff.framework.Call(function, tff.framework.Literal(np.int32(1), INT)))) == 7


def test_compiled_computations_are_collected():
  add = tff.tensorflow.computation(lambda a, b: a + b, [INT, INT]).to_building_block()
  compiler = blocks.Compiler()
  function = compiler.compile(add)({blocks.ENGINE: loops.Engine()})
  assert int(function([tf.constant(2), tf.constant(3)])) == 5
  assert len(compiler.graphs) == 1


def test_refuses_what_nobody_runs():
  with pytest.raises(blocks.UnsupportedError, match='Unexpected intrinsic unknown'):
    run(tff.framework.Intrinsic('unknown', tff.FunctionType(INT, INT)))
  with pytest.raises(blocks.UnsupportedError, match='Unexpected building block'):
    run(tff.framework.Placement(tff.CLIENTS))
