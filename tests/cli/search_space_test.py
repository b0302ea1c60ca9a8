from absl import flags
from absl.testing import flagsaver
import optuna
import pytest

from tests.cli import binaries
from tff_lowrank.cli import search_space
from tff_lowrank.cli import train  # noqa: F401 (defines the flags)


@pytest.fixture(autouse=True)
def parsed_flags():
  with flagsaver.flagsaver():
    flags.FLAGS.unparse_flags()
    flags.FLAGS(['tune', '--output_dir=x'])
    yield


def test_the_grammar():
  found = search_space.parse(
    'client_learning_rate=log:0.001:1, lbgm_threshold=uniform:0:0.8,client_epochs=choice:1|5,'
    'batch_size=log:1:64,uplink=choice:identity|top_k(0.1, qsgd(7))',
    'lbgm',
  )
  assert found == [
    search_space.Dimension('client_learning_rate', bounds=(0.001, 1.0), is_log=True),
    search_space.Dimension('lbgm_threshold', bounds=(0.0, 0.8)),
    search_space.Dimension('client_epochs', choices=('1', '5')),
    search_space.Dimension('batch_size', bounds=(1, 64), is_log=True),
    search_space.Dimension('uplink', choices=('identity', 'top_k(0.1, qsgd(7))')),
  ]
  assert [d.first() for d in found] == [0.001, 0.0, 1, 1, 'identity']


def test_suggestions_are_values_of_the_flags():
  dimensions = search_space.parse(
    'client_learning_rate=log:0.01:1,client_epochs=uniform:2:4,batch_size=choice:16|32', 'fed_avg'
  )
  study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
  seen = [[d.suggest(trial) for d in dimensions] for trial in (study.ask() for _ in range(40))]
  rates, epochs, sizes = zip(*seen, strict=True)
  assert all(0.01 <= rate <= 1 for rate in rates)
  # Half of them below the geometric mean of the bounds.
  assert 10 <= sum(rate < 0.1 for rate in rates) <= 30
  assert set(epochs) == {2, 3, 4} and set(sizes) == {16, 32}


@pytest.mark.parametrize(
  'text, message',
  [
    ('client_epochs', "expected FLAG=uniform:LOW:HIGH.*found 'client_epochs'"),
    ('client_epochs=1|2', "found 'client_epochs=1|2'"),
    ('client_epochs=normal:1:2', 'expected FLAG=uniform:LOW:HIGH'),
    ('', 'expected FLAG=uniform:LOW:HIGH'),
    ('epochs=uniform:1:2', "Expected a setting of a run with fed_avg, found 'epochs'"),
    ('seed=uniform:1:2', 'found seed: use --seeds'),
    ('method=choice:apf|lbgm', "Expected a setting of a run with fed_avg, found 'method'"),
    ('lbgm_threshold=uniform:0:1', 'lbgm_threshold has no effect with fed_avg'),
    ('uplink=uniform:0:1', 'uplink is not a number; expected choice'),
    ('client_epochs=uniform:1', 'expected uniform:LOW:HIGH'),
    ('client_epochs=uniform:1:2:3', 'expected uniform:LOW:HIGH'),
    ('client_epochs=uniform:1:x', '--client_epochs: .*x'),
    ('client_epochs=uniform:0:3', '--client_epochs: 0'),
    ('client_epochs=uniform:3:3', 'a lower and then a higher bound'),
    ('client_learning_rate=uniform:nan:1', 'a finite number'),
    ('client_learning_rate=log:0:1', 'log needs bounds above 0'),
    ('client_learning_rate=uniform:0:inf', 'finite'),
    ('client_epochs=choice:2', 'several different choices'),
    ('client_epochs=choice:2|2', 'several different choices'),
    ('client_epochs=choice:1|two', '--client_epochs: .*two'),
    ('client_epochs=choice:1|2,client_epochs=uniform:1:2', 'expected different flags'),
  ],
)
def test_refuses(text, message):
  with pytest.raises(binaries.USAGE_ERRORS, match=message):
    search_space.parse(text, 'fed_avg')


def test_refuses_a_flag_that_is_given_too():
  flags.FLAGS['rounds'].present = 1
  with pytest.raises(binaries.USAGE_ERRORS, match='--rounds is given and also searched over'):
    search_space.parse('rounds=choice:1|2', 'fed_avg')
