import csv

import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.execution import clusters
from tests.runs import small
from tff_lowrank import runs
from tff_lowrank import settings
from tff_lowrank.execution import ray_cluster
from tff_lowrank.runs import contexts
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import manifest


def test_the_context_is_as_before_after_each_kind():
  before = tff.framework.get_context_stack().current
  for name in ('local', 'stock'):
    with contexts.opened(spec_lib.make('fed_avg', dict(context=name))):
      assert tff.framework.get_context_stack().current is not before
    assert tff.framework.get_context_stack().current is before


def test_data_are_opened_elsewhere_on_a_cluster_alone():
  kinds = ('local', 'ray', 'stock')
  specs = [spec_lib.make('fed_avg', dict(context=kind)) for kind in kinds]
  assert [contexts.opens_client_data(spec) for spec in specs] == [False, True, False]


def test_a_missing_cluster_is_a_setting_that_cannot_be(monkeypatch):
  def fails(*_):
    raise ConnectionError('There is none.')

  monkeypatch.setattr(ray_cluster, 'connect', fails)
  with pytest.raises(settings.SettingError, match='context=ray: There is none.'):
    with contexts.opened(spec_lib.make('fed_avg', dict(context='ray'))):
      pass


def facts(folder):
  with open(folder / 'metrics.csv') as file:
    rows = [{k: v for k, v in r.items() if 'seconds' not in k} for r in csv.DictReader(file)]
  last = max((folder / 'checkpoints').iterdir())
  return rows, (last / 'state.safetensors').read_bytes(), (last / 'clients').read_bytes()


class TestOnACluster:
  pytestmark = clusters.needs_ray

  @pytest.mark.parametrize(
    'method, given',
    [
      ('lbgm', dict(client_test_fraction=0.25)),
      ('lbgm', dict(client_memory='disk', client_metrics=True)),
      ('pfedpara', dict(client_test_fraction=0.25, evaluate_after_training=True)),
      ('scaffold', {}),
    ],
  )
  def test_runs_are_equal_to_those_in_this_process(self, tmp_path, method, given):
    given = small.FAST | dict(clients_per_round=3, rounds=3) | given
    runs.train('digits', method, tmp_path / 'here', **given)
    before = tff.framework.get_context_stack().current
    run = runs.train('digits', method, tmp_path / 'there', context='ray', ray_workers=2, **given)
    assert tff.framework.get_context_stack().current is before
    here, there = facts(tmp_path / 'here'), facts(tmp_path / 'there')
    if given.get('client_memory') == 'disk':  # It names its file, whose identity is the run's.
      here, there = here[:2], there[:2]
    assert here == there
    assert run.record['flags']['context'] == 'ray' and run.record['flags']['ray_workers'] == 2
    assert facts(tmp_path / 'here')[0] != [] and run.record['status'] == 'completed'

  def test_a_task_that_is_an_object_travels(self, tmp_path):
    runs.train(small.own_task(), 'fed_avg', tmp_path / 'here', **small.OWN)
    runs.train(small.own_task(), 'fed_avg', tmp_path / 'there', context='ray', ray_workers=1,
               **small.OWN)  # fmt: skip
    assert facts(tmp_path / 'here') == facts(tmp_path / 'there')

  def test_client_memory_does_not_pass_through_the_program(self, tmp_path):
    def network():
      layers = tf.keras.layers
      return tf.keras.Sequential([tf.keras.Input((4,)), layers.Dense(6000), layers.Dense(3)])

    model_bytes = 4 * (4 * 6000 + 6000 + 6000 * 3 + 3)
    task = small.own_task(network)
    given = dict(clients_per_round=0, batch_size=8)
    passed = [0]
    with contexts.shared() as opened:
      for rounds in (3, 6):
        runs.train(task, 'lbgm', tmp_path / str(rounds), context='ray', ray_workers=2,
                   rounds=rounds, **given)  # fmt: skip
        (context,) = opened.values()
        passed.append(context.traffic.sent)
    # All four clients remember as much as the model has. What goes out in a round are the weights
    # before it, and the same as clients receive them.
    per_round = (passed[2] - 2 * passed[1]) / 3
    assert 2 * model_bytes <= per_round < 2.1 * model_bytes

  def test_runs_share_workers_and_go_on_with_others(self, tmp_path):
    given = small.FAST | dict(context='ray')
    with contexts.shared() as opened:
      runs.train('digits', 'fed_avg', tmp_path / 'a', ray_workers=1, **given)
      runs.train('digits', 'fed_avg', tmp_path / 'b', ray_workers=1, **given)
      assert len(opened) == 1
      (context,) = opened.values()
      (worker,) = context.workers
      assert worker.number == 0
    assert facts(tmp_path / 'a') == facts(tmp_path / 'b')
    longer = given | dict(rounds=4)
    runs.train('digits', 'fed_avg', tmp_path / 'a', ray_workers=2, **longer)
    runs.train('digits', 'fed_avg', tmp_path / 'c', **(longer | dict(context='local')))
    assert facts(tmp_path / 'a') == facts(tmp_path / 'c')
    with pytest.raises(manifest.MismatchError, match='--context'):
      runs.train('digits', 'fed_avg', tmp_path / 'a', **(longer | dict(context='local', rounds=5)))
