"""What is known of an HLO loop before it runs."""

from collections.abc import Sequence
import itertools
from typing import Any

import numpy as np

from tff_lowrank.execution import hlo_types


class _Body:
  """A computation of one argument, a loop's state."""

  def __init__(self, computation: Any):
    self._instructions = {i.id: i for i in computation.instructions}
    self.root = self[computation.root_id]

  def __getitem__(self, number: int) -> Any:
    """An instruction, past those that only pass a value on."""
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

  def element(self, number: int) -> int | None:
    """Which element of the state an instruction is; None if it is none."""
    instruction = self[number]
    if instruction.opcode != 'get-tuple-element':
      return None
    is_state = self[instruction.operand_ids[0]].opcode == 'parameter'
    return instruction.tuple_index if is_state else None


class Loop:
  """A `while` before it runs. fixed: positions of its state that no step changes."""

  def __init__(
    self,
    computations: dict[int, Any],
    condition_id: int,
    body_id: int,
    initial: Sequence[Any],
  ):
    """`computations` by their ids; `initial` is the state, in which constants are NumPy's."""
    self._condition = _Body(computations[condition_id])
    self._test = self._condition.root
    while self._test.opcode == 'get-tuple-element':  # Of a call, in TensorFlow's loops.
      call = self._condition[self._test.operand_ids[0]]
      if call.opcode != 'call' or self._condition[call.operand_ids[0]].opcode != 'parameter':
        break
      self._condition = _Body(computations[call.called_computation_ids[0]])
      self._test = self._condition[self._condition.root.operand_ids[self._test.tuple_index]]
    self._body = _Body(computations[body_id])
    self._initial = initial
    self._updates = list(self._body.root.operand_ids)
    self.fixed = frozenset(
      i for i, update in enumerate(self._updates) if self._body.element(update) == i
    )

  def trips(self) -> int | None:
    """How many steps it takes, where it plainly counts up to a constant; else None."""
    return self._trips(self._test)

  def _trips(self, test: Any) -> int | None:
    if test.opcode == 'and':
      trips = [self._trips(self._condition[i]) for i in test.operand_ids]
      return None if None in trips else min(trips)
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
    """An integer that is the same in each step, or None."""
    element = of.element(number)
    if element is not None:
      return _scalar(self._initial[element]) if element in self.fixed else None
    instruction = of[number]
    is_constant = instruction.opcode == 'constant'
    return _scalar(hlo_types.literal(instruction.literal)) if is_constant else None

  def _step(self, counter: int) -> int | None:
    """What a step adds to an element of the state, a positive integer, or None."""
    update = self._body[self._updates[counter]]
    if update.opcode != 'add':
      return None
    for mine, other in itertools.permutations(update.operand_ids):
      if self._body.element(mine) == counter:
        step = self._constant(self._body, other)
        return step if step is not None and step > 0 else None
    return None


def _scalar(value: Any) -> int | None:
  """A constant integer, or None."""
  is_constant = isinstance(value, (np.ndarray, np.generic)) and np.ndim(value) == 0
  return int(value) if is_constant and np.issubdtype(value.dtype, np.integer) else None
