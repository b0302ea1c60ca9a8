"""The specification of a run: a frozen record of all settings that decide its numbers."""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
from typing import Any

from tff_lowrank import codecs
from tff_lowrank import freezing
from tff_lowrank import learning
from tff_lowrank import methods
from tff_lowrank import settings
from tff_lowrank import tasks
from tff_lowrank.models import families
from tff_lowrank.models import initializations
from tff_lowrank.runs import client_rates
from tff_lowrank.runs import errors
from tff_lowrank.runs import spec_checks

OPTIMIZERS = ('sgd', 'adam', 'adagrad', 'yogi')

_field = settings.field
_run = functools.partial(_field, group='run')
_data = functools.partial(_field, group='data')
_model = functools.partial(_field, group='model')


@dataclasses.dataclass(frozen=True)
class RunSpec(settings.Settings):
  """The settings of one run. `make` creates one and checks that its settings are consistent.

  own: the method's own settings, of the class that its record names.
  record: the method, of which `method` is the name.
  client_rates: the learning rate of each client by its id, if `client_learning_rate` is a
    function; filled in by `with_client_rates` once the clients are known.
  """

  method: str
  record: methods.Method
  own: settings.Settings
  task: str = _data(
    'digits', f'Data set and model: {", ".join(tasks.NAMES)}; or package.module:FUNCTION of a Task.'
  )
  task_args: str = _data('', 'Arguments of that function: NAME=VALUE, separated by commas.')
  partition: str | None = _data(
    None,
    "How training examples are split: `natural`, the data set's own clients; `iid`; "
    '`shards:CLASSES_PER_CLIENT`; `dirichlet:ALPHA`, `dirichlet_balanced:ALPHA`, '
    '`dirichlet_by_class:ALPHA`. Default: `natural` if the task has own clients, else `iid`.',
  )
  num_clients: int | None = _data(
    None,
    'Number of clients, 100 if not given. With the natural partition: how many of its clients to '
    'use, all if 0 or not given.',
    at_least=0,
  )
  data_dir: str | None = _data(
    None, "Folder with the data set's files, or `synthetic`.", is_path=True
  )
  client_test_fraction: float = _data(
    0.0,
    "Fraction of each client's examples to hold out as a test set for its own model; 0: no "
    'personal evaluation.',
    at_least=0,
    below=1,
  )
  rounds: int = _run(100, 'Training rounds.', at_least=1)
  clients_per_round: int = _run(10, 'Clients sampled in each round; 0: all.', at_least=0)
  client_epochs: int = _run(1, 'Local epochs per round.', at_least=1)
  batch_size: int = _run(20, "Examples per local step; 0: the client's whole data.", at_least=0)
  client_max_elements: int = _run(
    0,
    'Maximum number of examples a client trains on in a round, drawn anew each round; 0: all.',
    at_least=0,
  )
  client_optimizer: str = _run('sgd', 'Optimizer of the local steps.', choices=OPTIMIZERS)
  client_learning_rate: float | Callable[[str], float] = _run(  # noqa: RUF009
    0.1,
    "Client learning rate; or package.module:FUNCTION from a client's id to its rate.",
    at_least=0,
    by_client=True,
  )
  client_rate_decay: float = _run(
    1.0,
    'Factor by which the client learning rate is multiplied after each round.',
    above=0,
    at_most=1,
  )
  server_optimizer: str = _run(
    'sgd',
    'Applies the mean update as the gradient; adam and yogi use beta_2 = 0.99.',
    choices=OPTIMIZERS,
  )
  server_learning_rate: float = _run(1.0, 'Server learning rate.', at_least=0)
  server_momentum: float = _run(
    0.0, 'Server momentum, with --server_optimizer=sgd.', at_least=0, below=1
  )
  server_epsilon: float | None = _run(
    None,
    "Epsilon of the adaptive server optimizers (not sgd); TFF's default if not given.",
    at_least=0,
  )
  client_weighting: str = _run(
    'num_examples', 'Weights of the clients in the mean.', choices=('num_examples', 'uniform')
  )
  seed: int = _run(
    1, 'Seeds initial weights, partition, sampling, shuffling and codecs.', at_least=0
  )
  eval_every: int = _run(
    1, 'Rounds between evaluations; the last round is always evaluated.', at_least=1
  )
  context: str = _run(
    'local',
    "TFF execution context: this package's, local or on a Ray cluster, or TFF's own (stock).",
    choices=('local', 'ray', 'stock'),
  )
  ray_address: str | None = _run(
    None,
    'Address of the Ray cluster for --context=ray, `auto` for the one on this machine; a local '
    'one is started if not given.',
  )
  ray_workers: int | None = _run(
    None, 'Workers of --context=ray; as many as the cluster has room for if not given.', at_least=1
  )
  client_memory: str = _run(
    'auto',
    'Where the client state is kept; disk_float16 rounds it to 16 bits; auto is disk if the state '
    'of all clients takes more than a tenth of the free memory, else ram.',
    choices=('auto', 'ram', 'disk', 'disk_float16'),
  )
  dropout_rate: float = _run(
    0.0,
    'Probability that a sampled client drops out of the round before it receives anything.',
    at_least=0,
    at_most=1,
  )
  straggler_deadline: float | None = _run(
    None,
    'In seconds; skips a sampled client if its last messages would take longer at 9 Mbit/s down '
    'and 3 Mbit/s up.',
    above=0,
  )
  uplink: str = _run(
    'identity',
    'Codec of the updates, such as `top_k(0.1)`; `lbgm` works on its output. See codecs.parse.',
  )
  downlink: str = _run(
    'identity',
    'Codec of the model sent to clients; encodes its change since the last round.',
  )
  initial_from_seed: bool = _run(
    False,
    'With a --downlink codec: clients draw the initial weights from a seed, so that a new client '
    'receives all messages so far if they are shorter than the model.',
  )
  evaluate_after_training: bool = _run(
    False, 'Also test each client after one round of local training, which is then discarded.'
  )
  stop_at_accuracy: float | None = _run(
    None, 'Stop after the first evaluation with at least this accuracy.', above=0, at_most=1
  )
  patience: int | None = _run(
    None, 'Stop after this many evaluations without a better accuracy.', at_least=1
  )
  client_metrics: bool = _run(
    False,
    'Record loss, accuracy and examples of each client in the cohort, for the model that it would '
    'use, after each round with an evaluation: client_metrics.parquet.',
  )
  model_family: str = _model(
    'original',
    "Kind of layers in the task's model; some methods decide it.",
    choices=families.FAMILIES,
  )
  fedpara_gamma: float = _model(
    0.5,
    'Rank of factorised layers, from the smallest (0) to the largest (1).',
    at_least=0,
    at_most=1,
  )
  fedpara_tanh: bool = _model(
    False,
    'With --model_family=fedpara, apply tanh to both matrices of a kernel, as in the paper.',
  )
  fedpara_head_rank: int | None = _model(
    None,
    'Rank of the last layer, instead of the rank from gamma, in tasks named `*_two_fc`.',
    at_least=1,
  )
  initialization: str = _model(
    'default',
    "Initial weights of plain dense and convolutional layers; uniform_fan_in is PyTorch's default, "
    "as in LBGM's published code: uniform in 1/sqrt(fan_in) around 0, biases too.",
    choices=initializations.INITIALIZATIONS,
  )
  client_rates: Mapping[str, float] | None = None

  def as_dict(self) -> dict[str, Any]:
    """The settings that have an effect with the method, for the record of a run."""
    excluded = dict(
      fedpara_gamma=self.gamma is None,
      fedpara_head_rank=self.gamma is None or self.fedpara_head_rank is None,
      fedpara_tanh=not self.tanh,
      initialization=self.initialization == 'default',
      initial_from_seed=not self.initial_from_seed,
      client_rate_decay=self.client_rate_decay == 1,
      task_args=not self.task_args,
      client_metrics=not self.client_metrics,
      server_epsilon=self.server_epsilon is None,
      stop_at_accuracy=self.stop_at_accuracy is None,
      patience=self.patience is None,
      ray_address=self.ray_address is None,
      ray_workers=self.ray_workers is None,
    )
    kept = {name: getattr(self, name) for name in settings.of(RunSpec) if not excluded.get(name)}
    if callable(self.client_learning_rate):
      kept['client_learning_rate'] = 'by client'  # The record has its values: see `client_rates`.
    return dict(kept, method=self.method, **dataclasses.asdict(self.own))

  def is_evaluated(self, round_num: int) -> bool:
    """Whether the model is evaluated after the round."""
    return round_num == self.rounds or round_num % self.eval_every == 0

  @property
  def gamma(self) -> float | None:
    """FedPara's rank hyper-parameter; None for models without factorised layers."""
    return None if self.model_family == 'original' else self.fedpara_gamma

  @property
  def tanh(self) -> bool:
    """Whether FedPara's kernels are products of tanh."""
    return self.fedpara_tanh and self.model_family == 'fedpara'

  @property
  def task_arguments(self) -> dict[str, str]:
    """`task_args` by name; raises SettingError if they cannot be parsed."""
    found = {}
    for part in filter(None, self.task_args.split(',')):
      name, equals, value = part.partition('=')
      if not equals or not name.strip().isidentifier() or name.strip() in found:
        raise settings.SettingError(
          f'task_args must be NAME=VALUE by commas, each name once, found {part!r} in '
          f'{self.task_args!r}.'
        )
      found[name.strip()] = value.strip()
    return found

  @property
  def choice(self) -> methods.Choice:
    """The choices that a method may depend on; raises ValueError if a codec is invalid."""
    return methods.Choice(
      settings=self.own,
      uplink=codecs.parse(self.uplink),
      downlink=codecs.parse(self.downlink),
      client_optimizer=self.client_optimizer,
      seed=self.seed,
      initial_from_seed=self.initial_from_seed,
    )

  @property
  def has_client_rates(self) -> bool:
    """Whether each client has its own learning rate."""
    return settings.is_function(self.client_learning_rate)

  def with_client_rates(self, client_ids: Iterable[str]) -> 'RunSpec':
    """The spec with the `client_rates` of these clients: see `client_rates.of_clients`."""
    if not self.has_client_rates or self.client_rates is not None:
      return self
    rate: Any = self.client_learning_rate  # A function, or the name of one.
    rates = client_rates.of_clients(rate, client_ids)
    return dataclasses.replace(self, client_rates=rates)

  @property
  def freezing_settings(self) -> freezing.Settings | None:
    """How the method freezes parameters, or None if it does not."""
    return self.record.freezing(self.choice)


# Of models with factors.
FAMILY_SETTINGS = ('fedpara_gamma', 'fedpara_head_rank', 'fedpara_tanh')


def check_name(name: str, method: str | methods.Method) -> None:
  """Raises SettingError unless `name` is a setting that has an effect with the method."""
  record = methods.find(method)
  own, method = record.setting_names, record.name
  if name in settings.of(RunSpec) or name in own:
    return
  owners = methods.owners(name)
  if owners:
    raise settings.SettingError(
      f'{name} has no effect with {method}; it belongs to {", ".join(owners)}.'
    )
  known = ', '.join((*settings.of(RunSpec), *own))
  raise settings.SettingError(
    f'Expected a setting of a run with {method}, found {name!r}. Settings: {known}.'
  )


def make(
  method: str | methods.Method = methods.BASELINE.name,
  given: Mapping[str, Any] | None = None,
  task: tasks.Task | None = None,
) -> RunSpec:
  """The spec of a run with `method`, the settings `given` by name, and defaults for the others.

  `task` replaces the setting of that name.

  Raises SettingError if a given setting has no effect, has an invalid value, or contradicts
  others.
  """
  given = dict(given or {})
  with errors.as_setting_errors():
    record = methods.find(method)
  for name in given:
    check_name(name, method)
  if task is not None:
    _check_is_whole(given)
    given['task'] = task.name
  own = record.settings(**{n: given.pop(n) for n in record.setting_names if n in given})
  if isinstance(method, methods.Method):
    if methods.METHODS.get(method.name, method) is not method:
      raise settings.SettingError(f'This package already has a method named {method.name!r}.')
    method = method.name
  spec = RunSpec(method, record, own, **given)
  default_partition = tasks.NATURAL
  if task is None:
    with errors.as_setting_errors('task'):
      default_partition = tasks.default_partition(spec.task)
  partition = default_partition if spec.partition is None else spec.partition
  spec = dataclasses.replace(spec, partition=partition)
  if task is None:
    with errors.as_setting_errors('partition'):
      tasks.check_partition(spec.task, partition)
  if spec.num_clients is None:
    spec = dataclasses.replace(spec, num_clients=tasks.default_num_clients(partition))
  spec = _with_family(spec, 'model_family' in given)
  _check_family_settings(spec, given)
  _check(spec)
  return spec


def _check_is_whole(given: Mapping[str, Any]) -> None:
  """Raises SettingError for settings that build a task, since the task is an object already."""
  for name in ('task', 'task_args', 'partition', 'data_dir', 'fedpara_head_rank'):
    if name in given:
      raise settings.SettingError(f'{name} has no effect for a task that is an object.')


def _with_family(spec: RunSpec, is_given: bool) -> RunSpec:
  """The spec with the model family of its method, if it has one; others are an error."""
  family = spec.record.model_family or spec.model_family
  if is_given and spec.model_family != family:
    raise settings.SettingError(
      f'model_family={spec.model_family} contradicts method={spec.method}, whose models are of '
      f'family {family}.'
    )
  return dataclasses.replace(spec, model_family=family)


def _check_family_settings(spec: RunSpec, given: Mapping[str, Any]) -> None:
  for name in FAMILY_SETTINGS:
    if name in given and not has_family_setting(spec.model_family, name):
      owner = 'fedpara' if name == 'fedpara_tanh' else 'the others'
      raise settings.SettingError(
        f'{name} has no effect with model_family={spec.model_family}; it belongs to {owner}.'
      )


def has_family_setting(family: str, name: str) -> bool:
  """Whether a setting of `FAMILY_SETTINGS` has an effect for models of `family`."""
  return family == 'fedpara' or (family != 'original' and name != 'fedpara_tanh')


def _check(spec: RunSpec) -> None:
  """Raises SettingError if settings contradict each other or have no effect."""
  record = spec.record
  with errors.as_setting_errors('uplink'):
    uplink = codecs.parse(spec.uplink)
  with errors.as_setting_errors('downlink'):
    downlink = codecs.parse(spec.downlink)
    learning.check_downlink(downlink)
  for way, codec in (('uplink', uplink), ('downlink', downlink)):
    if codec != codecs.Identity() and not getattr(record, f'takes_{way}'):
      text = getattr(spec, way)
      raise settings.SettingError(f'{way}={text} has no effect with method={spec.method}.')
  if spec.initial_from_seed and downlink == codecs.Identity():
    raise settings.SettingError('initial_from_seed has no effect with downlink=identity.')
  with errors.as_setting_errors(f'method={spec.method}'):
    record.freezing(spec.choice)
    record.check(spec.choice)
  if spec.has_client_rates:
    with errors.as_setting_errors('client_learning_rate'):
      rate: Any = spec.client_learning_rate  # A function, or the name of one.
      client_rates.load(rate)
  spec_checks.check(spec)
