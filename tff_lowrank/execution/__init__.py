"""Execution contexts: run TFF computations in this process (CPU or GPUs) or on many machines."""

from tff_lowrank.execution.client_datasets import ClientDataset as ClientDataset
from tff_lowrank.execution.client_datasets import DataSource as DataSource
from tff_lowrank.execution.cohort import ClientError as ClientError
from tff_lowrank.execution.context import create_async_local_context as create_async_local_context
from tff_lowrank.execution.context import create_local_context as create_local_context
from tff_lowrank.execution.context import set_local_context as set_local_context
from tff_lowrank.execution.explain import explain as explain
from tff_lowrank.execution.export import export_programs as export_programs
from tff_lowrank.execution.ray_context import RayContext as RayContext
from tff_lowrank.execution.ray_context import create_ray_context as create_ray_context
from tff_lowrank.execution.ray_context import set_ray_context as set_ray_context
from tff_lowrank.execution.stock import stock_context as stock_context

__all__ = [
  'ClientDataset',
  'ClientError',
  'DataSource',
  'RayContext',
  'create_async_local_context',
  'create_local_context',
  'create_ray_context',
  'explain',
  'export_programs',
  'set_local_context',
  'set_ray_context',
  'stock_context',
]
