"""Execution contexts: TFF in this process, on its CPU and GPUs."""

from tff_lowrank.execution.cohort import ClientError as ClientError
from tff_lowrank.execution.context import create_async_local_context as create_async_local_context
from tff_lowrank.execution.context import create_local_context as create_local_context
from tff_lowrank.execution.context import set_local_context as set_local_context
from tff_lowrank.execution.explain import explain as explain
from tff_lowrank.execution.export import export_programs as export_programs
from tff_lowrank.execution.stock import stock_context as stock_context

__all__ = [
  'ClientError',
  'create_async_local_context',
  'create_local_context',
  'explain',
  'export_programs',
  'set_local_context',
  'stock_context',
]
