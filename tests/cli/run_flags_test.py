import pathlib

from absl import app
from absl import flags
import pytest

from tests.cli import binaries
from tff_lowrank import methods
from tff_lowrank import settings
from tff_lowrank.cli import entry
from tff_lowrank.cli import method_flag as method_flag  # Its flag.
from tff_lowrank.cli import run_flags
from tff_lowrank.runs import spec as spec_lib


def parsed(function, *arguments):
  """What `function` gives where the command line has `arguments`."""
  with binaries.no_flags_set():
    flags.FLAGS(['train', '--output_dir=x', *arguments])
    return function()


@pytest.mark.parametrize(
  'text, method, parts',
  [
    ('lbgm', 'lbgm', []),
    ('lbgm:lbgm_threshold=0.4:rounds=3', 'lbgm', ['lbgm_threshold=0.4', 'rounds=3']),
    ('lbgm:rounds', 'lbgm', ['rounds']),
    ('own.methods:HALF', 'own.methods:HALF', []),
    ('own:HALF:rounds=3', 'own:HALF', ['rounds=3']),
    ('none:rounds=3', 'none', ['rounds=3']),
    ('lbgm:partition=shards:3:rounds=3', 'lbgm', ['partition=shards:3', 'rounds=3']),
    ('own:HALF:client_learning_rate=own:rate', 'own:HALF', ['client_learning_rate=own:rate']),
  ],
)
def test_split_method(text, method, parts):
  assert run_flags.split_method(text) == (method, parts)


@pytest.mark.parametrize(
  'text, parts',
  [
    ('a', ['a']),
    ('', ['']),
    ('a, b,', ['a', 'b', '']),
    ('a:uplink=top_k(0.1, qsgd(7)),b', ['a:uplink=top_k(0.1, qsgd(7))', 'b']),
  ],
)
def test_split_at_commas(text, parts):
  assert run_flags.split_at_commas(text) == parts


def test_only_what_is_given_and_of_the_method_makes_the_spec():
  given = ('--rounds=7', '--lbgm_threshold=0.4', '--fed_prox_mu=3', '--fedpara_gamma=0.1')
  found = parsed(lambda: run_flags.run_spec('lbgm', dict(seed=4)), *given)
  assert found == spec_lib.make('lbgm', dict(rounds=7, lbgm_threshold=0.4, seed=4))
  found = parsed(lambda: run_flags.run_spec('fedpara', dict(rounds=2)), *given)
  assert found == spec_lib.make('fedpara', dict(rounds=2, fedpara_gamma=0.1))


# A value for each setting that is not its default, alone or with another that it needs.
OTHERS = dict(
  task='mnist', partition='shards:3', num_clients=7, data_dir='a b', client_test_fraction=0.25,
  rounds=3, clients_per_round=2, client_epochs=2, batch_size=0, client_max_elements=9,
  client_learning_rate=1e-5, client_rate_decay=0.3, server_learning_rate=0.1,
  client_weighting='uniform', seed=2, eval_every=4, context='stock', client_memory='disk',
  dropout_rate=0.5, straggler_deadline=0.1, evaluate_after_training=True, stop_at_accuracy=0.9,
  patience=3,
)  # fmt: skip
FACTORS = dict(fedpara_gamma=0.2, fedpara_head_rank=3)
ONE_WAY = dict(uplink='top_k(0.1, float16)', server_optimizer='yogi', server_epsilon=1e-3)
OWN = {float: 0.875, int: 9, bool: True}


@pytest.mark.parametrize('method', methods.METHODS)
def test_arguments_of_a_spec_make_it_again(method):
  record = methods.METHODS[method]
  given = dict(OTHERS)
  if record.takes_uplink:
    given |= ONE_WAY
  if record.takes_downlink:
    given['downlink'] = 'float16'
  given |= FACTORS if record.model_family else dict(FACTORS, model_family='low_rank')
  for name, setting in settings.of(record.settings).items():
    given[name] = setting.choices[-1] if setting.choices else OWN[setting.kind]
  spec = spec_lib.make(method, given)
  arguments = run_flags.to_arguments(spec)
  assert f'--method={method}' in arguments
  assert parsed(lambda: run_flags.run_spec(flags.FLAGS.method), *arguments) == spec


def test_arguments_of_defaults_are_few():
  spec = spec_lib.make(methods.BASELINE.name, {})
  assert run_flags.to_arguments(spec) == [
    f'--method={methods.BASELINE.name}', '--partition=iid', '--num_clients=100'
  ]  # fmt: skip


def test_flags_of_methods_that_are_not_chosen():
  given = ('--lbgm_threshold=0.4',)
  for chosen in (['lbgm'], ['fed_avg', 'lbgm_shared']):
    parsed(lambda chosen=chosen: run_flags.check_method_flags(chosen), *given)
  with pytest.raises(
    app.UsageError, match='--lbgm_threshold has no effect with apf, fed_avg; it belongs to'
  ):
    parsed(lambda: run_flags.check_method_flags(['fed_avg', 'apf', 'fed_avg']), *given)
  own = ('lbgm_threshold', 'lbgm_granularity', 'lbgm_vectors', 'lbgm_predictive')
  assert run_flags.of_other_methods(['apf', 'fed_dyn', 'fed_prox']) == dict.fromkeys(own, 'lbgm')


def test_flags_of_factors_where_there_are_none():
  specs = [spec_lib.make(name, {}) for name in ('fed_avg', 'fedpara')]
  parsed(lambda: run_flags.check_family_flags(specs), '--fedpara_tanh')
  with pytest.raises(
    app.UsageError, match='--fedpara_tanh has no effect with --model_family=original'
  ):
    parsed(lambda: run_flags.check_family_flags(specs[:1]), '--fedpara_tanh')


def test_what_runs_may_differ_in():
  run_flags.check_name('rounds', 'fed_avg')
  for name, message in dict(seed='use --seeds', lbgm_threshold='has no effect with').items():
    with pytest.raises(settings.SettingError, match=message):
      run_flags.check_name(name, 'fed_avg')
  assert run_flags.parse_value('client_learning_rate', '1e-3') == 0.001
  with pytest.raises(app.UsageError, match='--rounds: 0 is not a positive integer'):
    run_flags.parse_value('rounds', '0')


def test_the_folder_must_have_a_name():
  assert parsed(run_flags.output_folder) == pathlib.Path('x')
  with pytest.raises(app.UsageError, match='found an empty name'):
    parsed(run_flags.output_folder, '--output_dir=')
  with binaries.no_flags_set(), pytest.raises(app.UsageError, match='--output_dir is missing: the'):
    flags.FLAGS(['train'])
    run_flags.output_folder()


OWN_METHOD = """
import dataclasses
from tff_lowrank import settings
from tff_lowrank.methods import method

@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
  {name}: int = settings.field(3, 'Of its own.')

METHOD = method.Method('own', 'Nothing.', 'Nobody', build=None, settings=Settings)
"""


@pytest.mark.parametrize(
  'form', [['--method={}'], ['--seed=1', '--method', '{}'], ['--methods=fed_avg,{}:{}_probe=4']]
)
def test_settings_of_the_user_s_own_methods_become_flags(tmp_path, monkeypatch, form):
  module = f'own_{len(form)}_{len(form[0])}'
  (tmp_path / f'{module}.py').write_text(OWN_METHOD.format(name=f'{module}_probe'))
  monkeypatch.syspath_prepend(tmp_path)
  arguments = [part.format(f'{module}:METHOD', module) for part in form]
  with binaries.no_flags_set():
    for prepare in entry.BEFORE_PARSING:
      prepare(arguments)
    assert flags.FLAGS[f'{module}_probe'].default == 3


def test_refuses_an_own_setting_called_as_another_flag(tmp_path, monkeypatch):
  (tmp_path / 'own_clash.py').write_text(OWN_METHOD.format(name='rounds'))
  monkeypatch.syspath_prepend(tmp_path)
  message = 'There is already a flag named rounds'
  with binaries.no_flags_set(), pytest.raises(settings.SettingError, match=message):
    run_flags.add_method('own_clash:METHOD')
