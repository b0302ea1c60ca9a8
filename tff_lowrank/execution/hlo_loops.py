"""Analyses an HLO loop: which parts of its state are constant or equal, and its number of steps."""

from collections.abc import Sequence
import itertools
from typing import Any

import numpy as np

from tff_lowrank.execution import hlo_types


class _Body:
  """A computation whose only argument is the loop's state."""

  def __init__(self, computation: Any):
    self._instructions = {i.id: i for i in computation.instructions}
    self.root = self[computation.root_id]

  def __getitem__(self, number: int) -> Any:
    """The instruction that makes a value, skipping those that only pass it on."""
    instruction = self._instructions[number]
    while True:
      operands = [self._instructions[i] for i in instruction.operand_ids]
      if instruction.opcode == 'copy' or (
        instruction.opcode == 'reshape'
        and instruction.shape.dimensions == operands[0].shape.dimensions
      ):
        instruction = operands[0]
      elif instruction.opcode == 'get-tuple-element' and operands[0].opcode == 'tuple':
        instruction = self._instructions[operands[0].operand_ids[instruction.tuple_index]]
      else:
        return instruction

  def keys(self, kinds: dict[int, int], classes: list[int]) -> dict[int, int]:
    """Instruction id -> a number; instructions with the same number have equal values.

    `classes` has such a number for each element of the state.
    """
    found: dict[int, int] = {}
    numbers: dict[Any, int] = {}
    for instruction in self._instructions.values():
      element = self.element(instruction.id)
      if element is not None:
        key: Any = ('state', classes[element])
      else:
        key = (kinds[instruction.id], *(found[i] for i in instruction.operand_ids))
      found[instruction.id] = numbers.setdefault(key, len(numbers))
    return found

  def element(self, number: int) -> int | None:
    """The element of the state that an instruction reads unchanged, or None."""
    instruction = self[number]
    if instruction.opcode != 'get-tuple-element':
      return None
    is_state = self[instruction.operand_ids[0]].opcode == 'parameter'
    return instruction.tuple_index if is_state else None


class Loop:
  """An HLO `while` loop.

  fixed: the positions in its state that no step changes.
  same: for each position, the first position that always has the same value.
  """

  def __init__(
    self,
    computations: dict[int, Any],
    kinds: dict[int, int],
    condition_id: int,
    body_id: int,
    initial: Sequence[Any],
  ):
    """Analyses a loop.

    Args:
      computations: Computations by id.
      kinds: The kinds of instructions, see `hlo_types.kinds`.
      condition_id: The computation that decides whether to continue.
      body_id: The computation of a step.
      initial: The state before the loop; constants in it are NumPy values.
    """
    self._condition, (self._test,) = _enter(computations, condition_id, is_tuple=False)
    self._body, self._updates = _enter(computations, body_id, is_tuple=True)
    self._initial = initial
    self.fixed = frozenset(
      i for i, update in enumerate(self._updates) if self._body.element(update.id) == i
    )

    self.same = self._find_same(kinds)

  def _find_same(self, kinds: dict[int, int]) -> list[int]:
    # Starts from positions that are equal before the first step, and separates those that a step
    # changes in different ways.
    classes = _numbered([_identity(value) for value in self._initial])
    while True:
      keys = self._body.keys(kinds, classes)
      after = _numbered(
        [(of, keys[update.id]) for of, update in zip(classes, self._updates, strict=True)]
      )
      if len(set(after)) == len(set(classes)):
        return [classes.index(of) for of in classes]
      classes = after

  def after(self, position: int, trips: int) -> np.ndarray | None:
    """The value of a counter after `trips` steps; None if it is no counter from a constant."""
    start = _scalar(self._initial[position])
    if start is None or (step := self._step(position)) is None:
      return None
    return np.array(start + trips * step, self._initial[position].dtype)

  def trips(self) -> int | None:
    """The number of steps, if the loop counts up to a constant; else None."""
    return self._trips(self._test)

  def _trips(self, test: Any) -> int | None:
    if test.opcode == 'and':
      trips = [self._trips(self._condition[i]) for i in test.operand_ids]
      known = [count for count in trips if count is not None]
      return min(known) if len(known) == len(trips) else None
    if test.opcode != 'compare' or test.comparison_direction not in ('LT', 'GT'):
      return None
    low, high = test.operand_ids[:: 1 if test.comparison_direction == 'LT' else -1]
    counter, limit = self._condition.element(low), self._constant(self._condition, high)
    if counter is None or limit is None:
      return None
    start, step = _scalar(self._initial[counter]), self._step(counter)
    if start is None or step is None:
      return None
    return max(-((start - limit) // step), 0)

  def _constant(self, of: _Body, number: int) -> int | None:
    """The value of an instruction, if it is an integer constant in all steps; else None."""
    element = of.element(number)
    if element is not None:
      return _scalar(self._initial[element]) if element in self.fixed else None
    instruction = of[number]
    is_constant = instruction.opcode == 'constant'
    return _scalar(hlo_types.literal(instruction.literal)) if is_constant else None

  def _step(self, counter: int) -> int | None:
    """The positive integer that a step adds to an element of the state, or None."""
    update = self._updates[counter]
    if update.opcode != 'add':
      return None
    for mine, other in itertools.permutations(update.operand_ids):
      if self._body.element(mine) == counter:
        step = self._constant(self._body, other)
        return step if step is not None and step > 0 else None
    return None


def _enter(computations: dict[int, Any], number: int, is_tuple: bool) -> tuple[_Body, list[Any]]:
  """A computation and its results, without the calls that TensorFlow wraps around it."""
  body = _Body(computations[number])
  results = [body[i] for i in body.root.operand_ids] if is_tuple else [body.root]
  while all(result.opcode == 'get-tuple-element' for result in results):
    (source, *others) = {result.operand_ids[0] for result in results}
    call = body[source]
    if others or call.opcode != 'call' or body[call.operand_ids[0]].opcode != 'parameter':
      break
    body = _Body(computations[call.called_computation_ids[0]])
    results = [body[body.root.operand_ids[result.tuple_index]] for result in results]
  return body, results


def _scalar(value: Any) -> int | None:
  """The value of an integer constant, or None."""
  is_constant = isinstance(value, (np.ndarray, np.generic)) and np.ndim(value) == 0
  return int(value) if is_constant and np.issubdtype(value.dtype, np.integer) else None


def _numbered(keys: Sequence[Any]) -> list[int]:
  numbers: dict[Any, int] = {}
  return [numbers.setdefault(key, len(numbers)) for key in keys]


def _identity(value: Any) -> Any:
  """A key that is the same for values known to be equal."""
  if isinstance(value, (list, tuple)):
    return tuple(map(_identity, value))
  if isinstance(value, (np.ndarray, np.generic)):
    return (value.dtype.str, value.shape, value.tobytes())
  return id(value)
