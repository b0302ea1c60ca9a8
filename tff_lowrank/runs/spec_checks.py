"""Checks for settings of a run that contradict each other, or have no effect together."""

from typing import Any

from tff_lowrank import settings
from tff_lowrank import tasks


def check(spec: Any) -> None:
  """Raises SettingError if settings of a `RunSpec` contradict each other or have no effect."""
  _check_numbers(spec)
  _check_personal(spec)
  _check_context(spec)


def _check_context(spec: Any) -> None:
  for name in ('ray_address', 'ray_workers'):
    if getattr(spec, name) is not None and spec.context != 'ray':
      raise settings.SettingError(
        f'{name}={getattr(spec, name)} has no effect with context={spec.context}; it belongs to '
        'ray.'
      )


def _check_numbers(spec: Any) -> None:
  if spec.num_clients == 0 and spec.partition != tasks.NATURAL:
    raise settings.SettingError(
      f'num_clients must be at least 1 under partition={spec.partition}, found 0.'
    )
  if spec.num_clients and spec.clients_per_round > spec.num_clients:
    raise settings.SettingError(
      f'clients_per_round must be at most num_clients={spec.num_clients}, found '
      f'{spec.clients_per_round}.'
    )
  if spec.server_momentum and spec.server_optimizer != 'sgd':
    raise settings.SettingError(
      f'server_momentum={spec.server_momentum} has no effect with '
      f'server_optimizer={spec.server_optimizer}; it belongs to sgd.'
    )
  if spec.server_epsilon is not None and spec.server_optimizer == 'sgd':
    raise settings.SettingError(
      f'server_epsilon={spec.server_epsilon} has no effect with server_optimizer=sgd.'
    )
  if spec.data_dir is not None and spec.task in tasks.EMBEDDED:
    raise settings.SettingError(f'data_dir has no effect with task={spec.task}, which is embedded.')


def _check_personal(spec: Any) -> None:
  if spec.evaluate_after_training and not spec.client_test_fraction:
    raise settings.SettingError(
      'evaluate_after_training tests each client on its own examples: give the fraction of '
      'examples to hold out, as client_test_fraction=0.2.'
    )
  if spec.record.is_personal and not spec.client_test_fraction:
    raise settings.SettingError(
      f'method={spec.method} trains a model for each client: give the fraction of '
      'examples to hold out for testing, as client_test_fraction=0.2.'
    )
