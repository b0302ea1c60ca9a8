import dataclasses

import pytest

from tests.runs import small
from tff_lowrank import methods
from tff_lowrank import settings
from tff_lowrank.runs import spec as spec_lib


def personal(method):
  """What a method cannot do without."""
  return dict(client_test_fraction=0.2) if methods.find(method).is_personal else {}


@pytest.mark.parametrize('method', methods.METHODS)
def test_what_every_method_records_makes_the_same_run(method):
  spec = spec_lib.make(method, personal(method))
  recorded = spec.as_dict()
  record = methods.find(method)
  assert spec.record is record and {*record.setting_names} <= recorded.keys()
  assert spec_lib.make(recorded.pop('method'), recorded) == spec
  assert (spec.freezing_settings is not None) == method.startswith('apf')


def test_own_settings_and_those_of_all_runs():
  spec = spec_lib.make('lbgm', dict(lbgm_threshold=1, rounds=7))
  assert (spec.own.lbgm_threshold, spec.rounds, spec.seed) == (1.0, 7, 1)
  recorded = spec.as_dict()
  assert (recorded['method'], recorded['lbgm_threshold'], recorded['rounds']) == ('lbgm', 1.0, 7)
  with pytest.raises(dataclasses.FrozenInstanceError):
    spec.rounds = 8


def test_without_a_method_it_is_the_baseline():
  assert spec_lib.make().method == 'fed_avg'
  assert spec_lib.make().task == 'digits'


@pytest.mark.parametrize(
  'given, partition, num_clients',
  [
    ({}, 'iid', 100),
    (dict(num_clients=7, clients_per_round=7), 'iid', 7),
    (dict(partition='dirichlet:0.5'), 'dirichlet:0.5', 100),
    (dict(task='emnist'), 'natural', 0),
    (dict(task='emnist', num_clients=20), 'natural', 20),
    (dict(task='nowhere.at:all'), 'natural', 0),
  ],
)
def test_partition_and_clients_by_default(given, partition, num_clients):
  spec = spec_lib.make('fed_avg', given)
  assert (spec.partition, spec.num_clients) == (partition, num_clients)


@pytest.mark.parametrize(
  'given, names',
  [
    ({}, set()),
    (dict(model_family='low_rank'), {'fedpara_gamma'}),
    (dict(model_family='fedpara', fedpara_tanh=True), {'fedpara_gamma', 'fedpara_tanh'}),
    (dict(model_family='fedpara', fedpara_tanh=False), {'fedpara_gamma'}),
    (
      dict(model_family='fedpara', task='mnist_two_fc', fedpara_head_rank=3),
      {'fedpara_gamma', 'fedpara_head_rank'},
    ),
    (dict(client_rate_decay=1), set()),
    (dict(client_rate_decay=0.9), {'client_rate_decay'}),
    (dict(server_optimizer='adam', server_epsilon=0.01), {'server_epsilon'}),
    (dict(stop_at_accuracy=0.9, patience=3), {'stop_at_accuracy', 'patience'}),
    (dict(client_metrics=True), {'client_metrics'}),
    (dict(initialization='uniform_fan_in'), {'initialization'}),
    (dict(downlink='top_k(0.1)', initial_from_seed=True), {'initial_from_seed'}),
    (dict(task='a:b', task_args='n=3'), {'task_args'}),
    (dict(context='ray', ray_address='auto', ray_workers=2), {'ray_address', 'ray_workers'}),
  ],
)
def test_what_means_nothing_is_not_recorded(given, names):
  absent_by_default = {
    'fedpara_gamma', 'fedpara_head_rank', 'fedpara_tanh', 'client_rate_decay', 'task_args',
    'server_epsilon', 'stop_at_accuracy', 'patience', 'client_metrics', 'initialization',
    'ray_address', 'ray_workers', 'initial_from_seed',
  }  # fmt: skip
  recorded = spec_lib.make('fed_avg', given).as_dict()
  assert recorded.keys() & absent_by_default == names
  assert {*settings.of(spec_lib.RunSpec)} - absent_by_default <= recorded.keys()


def test_arguments_of_a_task():
  spec = spec_lib.make('fed_avg', dict(task='a.b:c', task_args='n=3, path = /x=y ,'))
  assert spec.task_arguments == dict(n='3', path='/x=y')
  assert spec_lib.make().task_arguments == {}
  for text in ('n', 'n=1,n=2', '=3', '2n=1'):
    with pytest.raises(settings.SettingError, match='task_args must be NAME=VALUE by commas'):
      _ = dataclasses.replace(spec, task_args=text).task_arguments


def test_rounds_that_are_evaluated():
  spec = spec_lib.make('fed_avg', dict(rounds=5, eval_every=2))
  assert [r for r in range(1, 6) if spec.is_evaluated(r)] == [2, 4, 5]


def test_of_a_task_that_is_an_object():
  task = small.own_task(name='wards')
  spec = spec_lib.make('lbgm', dict(rounds=3), task)
  assert (spec.task, spec.partition, spec.num_clients) == ('wards', 'natural', 0)
  assert spec.as_dict()['task'] == 'wards'


@pytest.mark.parametrize(
  'given', [dict(task='digits'), dict(task_args='n=1'), dict(partition='iid'), dict(data_dir='.'),
            dict(fedpara_head_rank=2)]
)  # fmt: skip
def test_a_task_that_is_an_object_is_made_already(given):
  with pytest.raises(settings.SettingError, match='has no effect for a task that is an object'):
    spec_lib.make('fedpara', given, small.own_task())


@pytest.mark.parametrize(
  'method, given, message',
  [
    ('sgd', {}, r"method must be one of fed_avg, .* found 'sgd'"),
    ('nowhere.at:ALL', {}, "no module 'nowhere'"),
    ('fed_avg', dict(rouns=3), "a setting of a run with fed_avg, found 'rouns'. Settings: task, "),
    ('fed_avg', dict(method='lbgm'), "found 'method'"),
    ('fed_avg', dict(own=None), "found 'own'"),
    (
      'fed_avg',
      dict(lbgm_threshold=0.4),
      'no effect with fed_avg; it belongs to lbgm, lbgm_global, lbgm_shared',
    ),
    ('lbgm', dict(lbgm_threshold=2), 'lbgm_threshold must be at most 1, found 2'),
    ('lbgm', dict(rounds='3'), "rounds must be a whole number, found '3' of type str"),
    ('fed_avg', dict(rounds=True), 'rounds must be a whole number, found True'),
    ('fed_avg', dict(task='imagenet'), 'task: .*imagenet'),
    ('fed_avg', dict(partition='shards'), 'partition: '),
    ('fed_avg', dict(task='a:b', partition='iid'), 'partition: a:b has natural clients'),
    ('fed_avg', dict(num_clients=0), 'num_clients must be at least 1 under partition=iid'),
    ('fed_avg', dict(num_clients=5), 'clients_per_round must be at most num_clients=5, found 10'),
    ('fed_avg', dict(data_dir='.'), 'data_dir has no effect with task=digits, which is embedded'),
    ('fed_avg', dict(uplink='topk(0.1)'), 'uplink: .*topk'),
    ('fed_avg', dict(downlink='gaia(0.1)'), 'downlink: '),
    ('local_only', dict(uplink='float16'), 'uplink=float16 has no effect with method=local_only'),
    ('scaffold', dict(downlink='float16'), 'downlink=float16 has no effect with method=scaffold'),
    ('apf', dict(apf_control='additive', apf_check_every=0), 'apf_check_every must be at least 1'),
    ('scaffold', dict(uplink='cmfl(0.8)'), 'method=scaffold: '),
    ('fed_avg', dict(server_optimizer='adam', server_momentum=0.9), 'it belongs to sgd'),
    ('fed_avg', dict(server_epsilon=0.1), 'has no effect with server_optimizer=sgd'),
    ('fedpara', dict(model_family='low_rank'), 'model_family=low_rank contradicts method=fedpara'),
    ('fed_avg', dict(fedpara_gamma=0.1), 'no effect with model_family=original'),
    ('fed_avg', dict(model_family='low_rank', fedpara_tanh=True), 'it belongs to fedpara'),
    ('fed_per', {}, 'as client_test_fraction=0.2'),
    ('fed_avg', dict(evaluate_after_training=True), 'as client_test_fraction=0.2'),
  ],
)
def test_what_cannot_be_is_told_in_a_line(method, given, message):
  with pytest.raises(settings.SettingError, match=message) as refused:
    spec_lib.make(method, given)
  assert '\n' not in str(refused.value) and str(refused.value)[-1] in '.?'
