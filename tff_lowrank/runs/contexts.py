"""Creates the TFF execution context that a run's settings name."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
from typing import Any

from tff_lowrank import execution
from tff_lowrank import settings
from tff_lowrank.runs import spec as spec_lib

_SIMPLE: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = dict(
  local=execution.create_local_context, stock=execution.stock_context
)

# Inside `shared`: the contexts on clusters opened so far, by address and number of workers.
_shared: dict[Any, execution.RayContext] | None = None


def opens_client_data(spec: spec_lib.RunSpec) -> bool:
  """Whether the run's context receives descriptions of the client data, and opens it itself."""
  return spec.context not in _SIMPLE


@contextlib.contextmanager
def shared() -> Iterator[Mapping[Any, execution.RayContext]]:
  """Inside, runs on a cluster share their workers, which take some seconds to start.

  Yields the contexts opened so far, by address and number of workers.
  """
  global _shared
  shared_here: dict[Any, execution.RayContext] = {}
  _shared = shared_here
  try:
    yield shared_here
  finally:
    _shared = None
    for context in shared_here.values():
      context.close()


@contextlib.contextmanager
def opened(spec: spec_lib.RunSpec) -> Iterator[None]:
  """Inside, TFF runs in the context that `spec` names.

  Raises SettingError if the cluster cannot be reached or does not suit this process.
  """
  if spec.context in _SIMPLE:
    with _SIMPLE[spec.context]():
      yield
    return
  key = (spec.ray_address, spec.ray_workers)
  context = (_shared or {}).get(key) or _create(spec)
  if _shared is None:
    with context:
      yield
    return
  _shared[key] = context
  with context.installed():
    yield


def _create(spec: spec_lib.RunSpec) -> execution.RayContext:
  try:
    return execution.create_ray_context(spec.ray_address, spec.ray_workers)
  except (ImportError, ConnectionError, RuntimeError, ValueError) as e:
    raise settings.SettingError(f'context={spec.context}: {e}') from e
