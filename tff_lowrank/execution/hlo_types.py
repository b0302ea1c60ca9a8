"""Shapes, dtypes and constants of XLA's HLO, in NumPy's terms."""

from typing import Any

import jax.numpy as jnp
import numpy as np

# The protobuf schema of HLO; in TensorFlow it is a private module.
from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

HloModuleProto = hlo_pb2.HloModuleProto


class UnsupportedError(NotImplementedError):
  """A program has an instruction that cannot be translated."""


DTYPES = {
  getattr(xla_data_pb2, name): np.dtype(dtype)
  for name, dtype in dict(
    PRED=bool, S8='int8', S16='int16', S32='int32', S64='int64', U8='uint8', U16='uint16',
    U32='uint32', U64='uint64', F16='float16', BF16=jnp.bfloat16, F32='float32', F64='float64',
    C64='complex64', C128='complex128',
  ).items()
}  # fmt: skip

_LITERALS = dict(
  PRED='preds', S8='s8s', S16='s16s', S32='s32s', S64='s64s', U8='u8s', U16='u16s', U32='u32s',
  U64='u64s', F16='f16s', BF16='bf16s', F32='f32s', F64='f64s',
)  # fmt: skip


def literal(proto: Any) -> Any:
  """A constant: an array, or a list of them."""
  shape = proto.shape
  if shape.element_type == xla_data_pb2.TUPLE:
    return [literal(item) for item in proto.tuple_literals]
  name = xla_data_pb2.PrimitiveType.Name(shape.element_type)
  if name not in _LITERALS:
    raise UnsupportedError(f'a constant of {name}')
  dtype, data = DTYPES[shape.element_type], getattr(proto, _LITERALS[name])
  flat = np.frombuffer(data, dtype) if isinstance(data, bytes) else np.array(data, dtype)
  # The layout lists axes from the fastest to the slowest.
  order = list(shape.layout.minor_to_major)[::-1] or list(range(len(shape.dimensions)))
  stored = flat.reshape([shape.dimensions[axis] for axis in order])
  return np.array(stored.transpose(np.argsort(order)), order='C')


def shape(instruction: Any) -> tuple[int, ...]:
  """The shape of an instruction's result, which must be one array."""
  return tuple(instruction.shape.dimensions)


def kinds(module: Any) -> dict[int, int]:
  """Instruction id -> a number, the same for instructions that differ only in their operands."""
  numbers: dict[bytes, int] = {}
  found = {}
  for computation in module.computations:
    for instruction in computation.instructions:
      bare = type(instruction)()
      bare.CopyFrom(instruction)
      for field in ('id', 'name', 'metadata', 'operand_ids', 'control_predecessor_ids'):
        bare.ClearField(field)
      serialized = bare.SerializeToString(deterministic=True)
      found[instruction.id] = numbers.setdefault(serialized, len(numbers))
  return found


def with_full_precision(serialized: bytes) -> bytes:
  """A module whose products and convolutions have the full precision of their dtype.

  By default a GPU would use TF32, which has fewer digits, in place of float32.
  """
  module = HloModuleProto.FromString(serialized)
  for computation in module.computations:
    for instruction in computation.instructions:
      if instruction.opcode in ('convolution', 'dot'):
        highest = xla_data_pb2.PrecisionConfig.HIGHEST
        instruction.precision_config.operand_precision[:] = [highest, highest]
  return module.SerializeToString()
