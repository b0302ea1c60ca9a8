"""The flags of a run, and the `RunSpec` they make."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from absl import app
from absl import flags

from experiments import float_flags
from experiments import path_flag
from experiments import spec_checks
from experiments import specs
from tff_lowrank import codecs
from tff_lowrank import tasks
from tff_lowrank.freezing import aggressive
from tff_lowrank.freezing import control
from tff_lowrank.freezing import settings as freezing_settings
from tff_lowrank.freezing import stability
from tff_lowrank.freezing import synchronisation
from tff_lowrank.models import families

flags.DEFINE_enum('task', 'digits', tasks.NAMES, 'What to learn.')
flags.DEFINE_integer('rounds', 100, 'Training rounds.', lower_bound=1)
flags.DEFINE_integer(
  'num_clients',
  None,
  'Clients the training examples are partitioned over, 100 if not given; of natural ones, how many '
  'of them, all if 0 or not given.',
  lower_bound=0,
)
flags.DEFINE_integer(
  'clients_per_round', 10, 'Clients sampled in each round; 0 is all of them.', lower_bound=0
)
flags.DEFINE_string(
  'partition',
  'iid',
  '`iid`, `shards:CLASSES_PER_CLIENT`, `dirichlet:ALPHA`, or `natural`: the data '
  "set's own clients.",
)
flags.DEFINE_integer(
  'client_epochs', 1, 'Passes of a client over its data in a round.', lower_bound=1
)
flags.DEFINE_integer(
  'batch_size', 20, "Examples a local step; 0 is the client's whole data.", lower_bound=0
)
flags.DEFINE_integer(
  'client_max_elements',
  0,
  'Examples that a client trains on in a round at most, anew drawn in each; 0 is all.',
  lower_bound=0,
)
flags.DEFINE_enum('client_optimizer', 'sgd', specs.OPTIMIZERS, 'Takes the local steps.')
float_flags.define('client_learning_rate', 0.1, 'Rate of the client optimizer.', lower_bound=0)
float_flags.define(
  'client_rate_decay',
  1.0,
  'Factor on the rate of the client optimizer after each round, above 0.',
  lower_bound=0,
  upper_bound=1,
)
flags.DEFINE_enum(
  'server_optimizer',
  'sgd',
  specs.OPTIMIZERS,
  'Takes the mean update as the gradient; adam and yogi with the second moments kept at 0.99.',
)
float_flags.define('server_learning_rate', 1.0, 'Rate of the server optimizer.', lower_bound=0)
float_flags.define(
  'server_momentum',
  0.0,
  'Momentum of the server, with --server_optimizer=sgd.',
  lower_bound=0,
  upper_bound=1,
)
float_flags.define(
  'server_epsilon',
  None,
  "Degree of adaptivity of the server optimizer, without --server_optimizer=sgd; TFF's by default.",
  lower_bound=0,
)
flags.DEFINE_enum(
  'client_weighting', 'num_examples', ('num_examples', 'uniform'), 'Weights of the mean.'
)
flags.DEFINE_integer(
  'seed', 1, 'Decides initial weights, partition, sampling, shuffling and codecs.', lower_bound=0
)
flags.DEFINE_integer(
  'eval_every',
  1,
  'Rounds between evaluations; the last round is always evaluated.',
  lower_bound=1,
)
path_flag.define('data_dir', None, "Where the data set's files are.")
flags.DEFINE_enum(
  'context', 'local', specs.CONTEXTS, "What runs TFF: this package's context or TFF's own."
)
flags.DEFINE_enum(
  'client_memory',
  'auto',
  specs.CLIENT_MEMORY,
  'Where what clients remember is kept; disk_float16 rounds it to 16 bits, auto is disk where all '
  'clients would take more than a tenth of the free memory, else ram.',
)
float_flags.define(
  'dropout_rate',
  0.0,
  'Probability that a chosen client drops out of the round, before it is sent anything.',
  lower_bound=0,
  upper_bound=1,
)
float_flags.define(
  'straggler_deadline',
  None,
  'Seconds; a chosen client whose last messages would take longer on 9 Mbps down and 3 up sits '
  'out.',
  lower_bound=0,
)
flags.DEFINE_string(
  'uplink',
  'identity',
  'The codec of the updates, such as `top_k(0.1)`; `lbgm` recycles its output. See codecs.parse.',
)
flags.DEFINE_string(
  'downlink',
  'identity',
  'The codec of the model on its way down: of its difference from what clients have.',
)
float_flags.define(
  'lbgm_threshold',
  0.2,
  'Largest look-back-phase error at which a scalar is sent.',
  lower_bound=0,
  upper_bound=1,
)
flags.DEFINE_enum(
  'lbgm_granularity', 'tensor', codecs.GRANULARITIES, 'What is decided on together.'
)
float_flags.define(
  'apf_stability_threshold',
  0.05,
  'Effective perturbation below which a parameter is stable; 0 freezes none.',
  lower_bound=0,
)
flags.DEFINE_integer('apf_check_every', 1, 'Rounds between checks of stability.', lower_bound=1)
flags.DEFINE_enum(
  'apf_control', 'aimd', control.CONTROLS, 'How freezing periods follow the checks.'
)
flags.DEFINE_enum('apf_aggressive', 'none', aggressive.VARIANTS, 'Freezing at random on top.')
float_flags.define(
  'apf_ema_decay',
  0.99,
  'Weight of the past in the moving averages, below 1.',
  lower_bound=0,
  upper_bound=1,
)
flags.DEFINE_enum(
  'apf_granularity', 'scalar', freezing_settings.GRANULARITIES, 'What is frozen together.'
)
flags.DEFINE_enum(
  'apf_zero_update', 'unstable', stability.ZERO_UPDATES, 'What a parameter is that never moved.'
)
flags.DEFINE_enum(
  'apf_mask_policy',
  'server',
  synchronisation.MASK_POLICIES,
  'Whether the server sends the mask or clients derive it, which suits full participation.',
)
float_flags.define(
  'client_test_fraction',
  0.0,
  "Share of each client's own examples on which its own model is tested instead, below 1; 0 is no "
  'personal evaluation.',
  lower_bound=0,
  upper_bound=1,
)
flags.DEFINE_bool(
  'evaluate_after_training',
  False,
  'Test the clients also after a round of local training each, of which nothing is kept.',
)
flags.DEFINE_enum(
  'model_family',
  'original',
  families.FAMILIES,
  "The layers of the task's model; the methods `fedpara` and `pfedpara` have their own.",
)
float_flags.define(
  'fedpara_gamma',
  0.5,
  'From the smallest (0) to the largest (1) rank of factorised layers.',
  lower_bound=0,
  upper_bound=1,
)
flags.DEFINE_bool(
  'fedpara_tanh',
  False,
  "Have tanh around both terms of the kernels of --model_family=fedpara, as in the paper's runs.",
)
flags.DEFINE_integer(
  'fedpara_head_rank',
  None,
  "The rank of the last layer's factors, in place of gamma's, in tasks named `*_two_fc`.",
  lower_bound=1,
)
float_flags.define(
  'fed_prox_mu', 0.1, 'Pull of the model received on local training.', lower_bound=0
)
float_flags.define(
  'fed_dyn_alpha', 0.1, "Strength of FedDyn's regulariser; 0 is FedAvg.", lower_bound=0
)
_OUTPUT_DIR = path_flag.define('output_dir', None, 'Folder for all that is written.', required=True)


def output_folder() -> pathlib.Path:
  if not _OUTPUT_DIR.value:
    raise app.UsageError('--output_dir: expected a folder, found an empty name.')
  return pathlib.Path(_OUTPUT_DIR.value)


def given(name: str) -> bool:
  """Whether the user set the flag."""
  return flags.FLAGS[name].present > 0


def check_method_flags(methods: Sequence[str]) -> None:
  """Raises UsageError if a flag is given that belongs to none of `methods`."""
  owned = {flag for method in methods for flag in specs.METHOD_FLAGS[method]}
  for method, names in specs.METHOD_FLAGS.items():
    for name in names:
      if given(name) and name not in owned:
        raise app.UsageError(
          f'--{name} does nothing under {", ".join(sorted(set(methods)))}; it belongs to '
          f'--method={method}.'
        )


def check_family_flags(chosen: Sequence[specs.RunSpec]) -> None:
  """Raises UsageError if a flag of factorised layers is given and none of the runs has any."""
  for name in ('fedpara_gamma', 'fedpara_head_rank'):
    if given(name) and all(spec.gamma is None for spec in chosen):
      raise app.UsageError(
        f'--{name} does nothing under --model_family=original; it belongs to the others.'
      )
  if given('fedpara_tanh') and all(spec.model_family != 'fedpara' for spec in chosen):
    raise app.UsageError('--fedpara_tanh belongs to --model_family=fedpara, which no run has.')


def _with_family(spec: specs.RunSpec, is_given: bool) -> specs.RunSpec:
  """The spec with the family that its method has, if any, which no other may contradict."""
  family = specs.METHOD_FAMILIES.get(spec.method, spec.model_family)
  if is_given and spec.model_family != family:
    raise app.UsageError(
      f'--model_family={spec.model_family} contradicts --method={spec.method}, whose models are '
      f'of family {family}.'
    )
  return dataclasses.replace(spec, model_family=family)


def run_spec(method: str, overrides: Mapping[str, Any] | None = None) -> specs.RunSpec:
  """The spec that the flags make for `method`; `overrides` replace single settings.

  Raises UsageError if the settings contradict each other.
  """
  names = (field.name for field in dataclasses.fields(specs.RunSpec))
  settings = {name: flags.FLAGS[name].value for name in names if name != 'method'}
  overrides = overrides or {}
  spec = specs.RunSpec(**{**settings, **overrides, 'method': method})
  if spec.num_clients is None:
    spec = dataclasses.replace(spec, num_clients=0 if spec.partition == tasks.NATURAL else 100)
  spec = _with_family(spec, given('model_family') or 'model_family' in overrides)
  spec_checks.check(spec)
  return spec


def split_at_commas(text: str) -> list[str]:
  """The parts of `text` between commas, but not those in parentheses."""
  parts, depth = [''], 0
  for character in text:
    depth += (character == '(') - (character == ')')
    if character == ',' and depth == 0:
      parts.append('')
    else:
      parts[-1] += character
  return [part.strip() for part in parts]


def parse_override(name: str, text: str) -> Any:
  """The value of flag `name` given as `text`, under the flag's own checks.

  Raises UsageError if there is no such flag or `text` is not a value of it.
  """
  if name not in specs.RunSpec.__dataclass_fields__ or name in ('method', 'seed'):
    raise app.UsageError(f'Expected a flag of a run, found {name!r}.')
  flag = flags.FLAGS[name]
  try:
    return flag.parser.parse(text)
  except ValueError as e:
    raise app.UsageError(f'--{name}: {e}') from e


def to_arguments(spec: specs.RunSpec) -> list[str]:
  """The arguments of `experiments.train` that make `spec`: those that are not at their default."""
  settings = spec.as_dict()
  arguments = [f'--method={settings.pop("method")}']
  for name, value in settings.items():
    if value != flags.FLAGS[name].default:
      arguments.append(f'--{name}={value}')
  return arguments
