"""Converts programs to portable StableHLO, for other and newer versions of XLA."""

from collections.abc import Iterator
import dataclasses
from typing import Any

from jax.interpreters import mlir
from jaxlib import xla_client
from jaxlib.mlir import ir

# Tested with jaxlib 0.4.23, 0.11.2 and 0.12.0. https://github.com/openxla/stablehlo guarantees
# compatibility for years.
STABLEHLO_VERSION = '0.14.0'

PRECISIONS = ('default', 'high', 'highest')
_WITH_PRECISION = ('stablehlo.convolution', 'stablehlo.dot', 'stablehlo.dot_general')
# These attributes refer to buffers of the process that runs the program.
_BINDING_ATTRIBUTES = ('jax.buffer_donor', 'tf.aliasing_output')

_DTYPES = {
  'i1': 'bool',
  'bf16': 'bfloat16',
  **{f'f{bits}': f'float{bits}' for bits in (16, 32, 64)},
  **{f'i{bits}': f'int{bits}' for bits in (8, 16, 32, 64)},
  **{f'ui{bits}': f'uint{bits}' for bits in (8, 16, 32, 64)},
}


@dataclasses.dataclass(frozen=True)
class Portable:
  """A program whose main function takes and returns tensors one by one.

  artifact: portable StableHLO, for `client.compile` of any newer jaxlib.
  arguments, results: the shape and the NumPy name of the dtype of each.
  precision: of its products and convolutions, one of `PRECISIONS`; 'mixed' if they differ, 'none'
    if there are none.
  """

  artifact: bytes
  arguments: list[tuple[list[int], str]]
  results: list[tuple[list[int], str]]
  precision: str


def make_portable(module: str | bytes, precision: str | None = None) -> Portable:
  """The portable form of an MLIR module, with `precision` for all products and convolutions.

  TensorFlow's XLA compiler returns a tuple, which newer compilers refuse (`Invalid XLA
  PrimitiveType`); here its elements are returned. Attributes that let results overwrite arguments
  are removed.

  Args:
    module: Text or bytecode, in StableHLO.
    precision: One of `PRECISIONS`; None does not change it.

  Raises:
    ValueError: If an operation has no portable form.
  """
  with mlir.make_ir_context(), ir.Location.unknown():
    parsed = ir.Module.parse(module)
    main = next(
      op
      for op in parsed.body.operations
      if 'sym_name' in op.attributes and ir.StringAttr(op.attributes['sym_name']).value == 'main'
    )
    _flatten_results(main)
    _remove_bindings(main)
    if precision is not None:
      _set_precision(parsed.operation, precision)
    parsed.operation.verify()
    function_type = ir.FunctionType(ir.TypeAttr(main.attributes['function_type']).value)
    found = {p for op in _walk(parsed.operation) if (p := _precision_of(op)) is not None}
    return Portable(
      _serialize(parsed),
      [_shape_and_dtype(t) for t in function_type.inputs],
      [_shape_and_dtype(t) for t in function_type.results],
      'none' if not found else found.pop() if len(found) == 1 else 'mixed',
    )


def _serialize(module: ir.Module) -> bytes:
  text = str(module)
  foreign = _foreign(module)
  if foreign:
    # jax leaves operations of the CHLO dialect; in HLO they are other operations.
    try:
      computation = xla_client._xla.mlir.mlir_module_to_xla_computation(text, False, False)
      lowered = xla_client._xla.mlir.xla_computation_to_mlir_module(computation)
      foreign_in_hlo = _foreign(ir.Module.parse(lowered))
    except Exception:
      foreign_in_hlo = foreign
    if not foreign_in_hlo:
      text = lowered
    elif not all(name.startswith('chlo.') for name in foreign):  # Newer versions know CHLO too.
      raise ValueError(f'Expected a program with a portable form, found {sorted(foreign)}.')
  return xla_client._xla.mlir.serialize_portable_artifact(text, STABLEHLO_VERSION)


def _foreign(module: ir.Module) -> set[str]:
  """The names of operations that are not in StableHLO."""
  names = {operation.name for operation in _walk(module.operation)}
  return {name for name in names if not name.startswith(('stablehlo.', 'func.'))}


def _flatten_results(main: ir.Operation) -> None:
  block = main.regions[0].blocks[0]
  returned = list(block.operations)[-1]
  if len(returned.operands) != 1 or not ir.TupleType.isinstance(returned.operands[0].type):
    return
  made = returned.operands[0].owner
  if made.name != 'stablehlo.tuple':
    raise ValueError(f'Expected results from stablehlo.tuple, found {made.name}.')
  values = list(made.operands)
  ir.Operation.create('func.return', operands=values, ip=ir.InsertionPoint(returned))
  returned.erase()
  made.erase()
  function_type = ir.FunctionType.get([a.type for a in block.arguments], [v.type for v in values])
  main.attributes['function_type'] = ir.TypeAttr.get(function_type)
  if 'res_attrs' in main.attributes:
    del main.attributes['res_attrs']


def _remove_bindings(main: ir.Operation) -> None:
  if 'arg_attrs' not in main.attributes:
    return
  kept = [
    ir.DictAttr.get(
      {a.name: a.attr for a in ir.DictAttr(of_one) if a.name not in _BINDING_ATTRIBUTES}
    )
    for of_one in ir.ArrayAttr(main.attributes['arg_attrs'])
  ]
  main.attributes['arg_attrs'] = ir.ArrayAttr.get(kept)


def _walk(operation: ir.Operation) -> Iterator[Any]:
  for region in operation.regions:
    for block in region.blocks:
      for inner in block.operations:
        yield inner.operation
        yield from _walk(inner.operation)


def _set_precision(module: ir.Operation, precision: str) -> None:
  one = f'#stablehlo<precision {precision.upper()}>'
  both = ir.Attribute.parse(f'[{one}, {one}]')
  for operation in _walk(module):
    if operation.name in _WITH_PRECISION:
      operation.attributes['precision_config'] = both


def _precision_of(operation: ir.Operation) -> str | None:
  """The lower precision of an operation's two operands; None if it has no precision."""
  if operation.name not in _WITH_PRECISION:
    return None
  if 'precision_config' not in operation.attributes:
    return PRECISIONS[0]
  text = str(operation.attributes['precision_config']).lower()
  found = [word.strip(' >,]') for word in text.split('<precision')[1:]]
  return min(
    (word.split('>')[0].strip() for word in found), key=PRECISIONS.index, default='default'
  )


def _shape_and_dtype(type_: ir.Type) -> tuple[list[int], str]:
  tensor = ir.RankedTensorType(type_)
  return list(tensor.shape), _DTYPES[str(tensor.element_type)]
