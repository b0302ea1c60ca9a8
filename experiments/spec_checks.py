"""What settings go together: one sentence for those that do not."""

from collections.abc import Iterator
import contextlib
import dataclasses

from absl import app

from experiments import specs
from tff_lowrank import aggregators
from tff_lowrank import codecs
from tff_lowrank import files
from tff_lowrank import learning
from tff_lowrank import tasks
from tff_lowrank.simulation import manifest

_EMBEDDED_TASKS = ('digits',)
_LARGEST = 2**31 - 1


@contextlib.contextmanager
def as_usage_errors(what: str = '') -> Iterator[None]:
  """Inside, a ValueError says that what was asked for cannot be: it becomes a UsageError.

  One about a file passes as it is. `what` and a colon precede the sentence.
  """
  try:
    yield
  except (files.FileError, manifest.DamagedError, manifest.MismatchError):
    raise
  except ValueError as e:
    raise app.UsageError(f'{what}: {e}' if what else str(e)) from e


def _check_personal(spec: specs.RunSpec) -> None:
  if spec.client_test_fraction == 1:
    raise app.UsageError('--client_test_fraction must be below 1, found 1.')
  if spec.evaluate_after_training and not spec.client_test_fraction:
    raise app.UsageError(
      '--evaluate_after_training tests each client on its own examples: give their share, as '
      '--client_test_fraction=0.2.'
    )
  if spec.method in specs.PERSONAL_METHODS and not spec.client_test_fraction:
    raise app.UsageError(
      f"--method={spec.method} trains a model for each client: give the share of a client's "
      'examples to test it on, as --client_test_fraction=0.2.'
    )


def _check_regularized(spec: specs.RunSpec) -> None:
  if spec.method == 'scaffold' and spec.client_optimizer != 'sgd':
    raise app.UsageError(
      f'--client_optimizer={spec.client_optimizer} does not go with --method=scaffold; its '
      'corrections are of sgd.'
    )
  if spec.method in ('scaffold', 'fed_dyn'):
    for part in codecs.parse(spec.uplink).parts:
      if part.traits.whole_client:
        raise app.UsageError(
          f'--uplink={spec.uplink} does not go with --method={spec.method}: {part.name} keeps '
          'whole clients out of a round.'
        )


def _check_numbers(spec: specs.RunSpec) -> None:
  """Refuses what the bounds of single flags let pass."""
  for name, value in dataclasses.asdict(spec).items():
    if isinstance(value, int) and value > _LARGEST:
      raise app.UsageError(f'--{name} must be at most {_LARGEST}, found {value}.')


def _check_combined(spec: specs.RunSpec) -> None:
  with as_usage_errors('--partition'):
    tasks.check_partition(spec.task, spec.partition)
  with as_usage_errors('--apf_*'):
    spec.freezing_settings()
  with as_usage_errors('--uplink'):
    uplink = codecs.parse(spec.uplink)
    if spec.method == 'lbgm':
      codecs.LookBack(uplink, spec.lbgm_threshold)
    if spec.freezing_settings() is not None:
      aggregators.check_codec_under_freezing(uplink)
  with as_usage_errors('--downlink'):
    downlink = codecs.parse(spec.downlink)
    learning.check_downlink(downlink)
  if spec.method in specs.METHODS_WITHOUT_UPLINK and uplink != codecs.Identity():
    raise app.UsageError(f'--uplink={spec.uplink} does nothing under --method={spec.method}.')
  if spec.method not in specs.METHODS_WITH_DOWNLINK and downlink != codecs.Identity():
    raise app.UsageError(f'--downlink={spec.downlink} does nothing under --method={spec.method}.')
  if spec.num_clients == 0 and spec.partition != tasks.NATURAL:
    raise app.UsageError(f'--num_clients must be at least 1 under --partition={spec.partition}.')
  if spec.num_clients and spec.clients_per_round > spec.num_clients:
    raise app.UsageError(
      f'--clients_per_round must be at most --num_clients={spec.num_clients}, found '
      f'{spec.clients_per_round}.'
    )
  if spec.server_momentum and spec.server_optimizer != 'sgd':
    raise app.UsageError(
      f'--server_momentum={spec.server_momentum} does nothing under '
      f'--server_optimizer={spec.server_optimizer}; it belongs to sgd.'
    )
  if spec.server_epsilon is not None and spec.server_optimizer == 'sgd':
    raise app.UsageError(
      f'--server_epsilon={spec.server_epsilon} does nothing under --server_optimizer=sgd.'
    )
  if spec.server_momentum == 1:
    raise app.UsageError('--server_momentum must be below 1, found 1.')
  if spec.client_rate_decay == 0:
    raise app.UsageError('--client_rate_decay must be above 0, found 0.')
  if spec.straggler_deadline == 0:
    raise app.UsageError('--straggler_deadline must be above 0, found 0.')
  if spec.data_dir is not None and spec.task in _EMBEDDED_TASKS:
    raise app.UsageError(f'--data_dir does nothing under --task={spec.task}, which is embedded.')


def check(spec: specs.RunSpec) -> None:
  """Raises UsageError if settings contradict each other or mean nothing."""
  _check_numbers(spec)
  _check_combined(spec)
  _check_personal(spec)
  _check_regularized(spec)
