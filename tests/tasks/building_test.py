import numpy as np
import pytest

from tff_lowrank import tasks


def build(name='digits', **settings):
  settings = dict(partition='iid', num_clients=4, seed=1) | settings
  return tasks.build(name, **settings)


def test_seed_decides_initial_weights_and_partition():
  task = build()
  a, b, c = (task.build_model(seed).initial_weights[0] for seed in (1, 1, 2))
  assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
  assert not np.array_equal(a[0], c[0])
  first, other = (
    np.stack([e['x'] for e in build(seed=s).train.create_tf_dataset_for_client('client_0')])
    for s in (1, 2)
  )
  assert not np.array_equal(first, other)


def test_some_of_the_data_sets_own_clients():
  whole = build(
    'stackexchange_tags', partition='natural', num_clients=0, data_dir=tasks.SYNTHETIC
  ).train
  chosen = set()
  for seed in range(6):
    train = build(
      'stackexchange_tags',
      partition='natural',
      num_clients=2,
      data_dir=tasks.SYNTHETIC,
      seed=seed,
    ).train
    assert len(train.client_ids) == 2 and train.client_ids == sorted(train.client_ids)
    chosen.add(tuple(train.client_ids))
    for client in train.client_ids:
      np.testing.assert_array_equal(train.examples(client).x, whole.examples(client).x)
  assert 1 < len(chosen) <= 3
  with pytest.raises(ValueError, match='There are 3 clients, expected 4 or more'):
    build('stackexchange_tags', partition='natural', num_clients=4, data_dir=tasks.SYNTHETIC)


def test_refuses_bad_arguments():
  with pytest.raises(ValueError, match="found 'cifar'"):
    build('cifar')
  with pytest.raises(ValueError, match='A partition must be'):
    build(partition='natural')


@pytest.mark.parametrize('family', ['fedpara', 'low_rank', 'pfedpara'])
def test_models_of_other_families(family):
  model = build(model_family=family, gamma=0.5).build_model(1)
  assert sum(w.size for w in model.initial_weights[0]) < 4810
  with pytest.raises(ValueError, match='`gamma` must be given for'):
    build(model_family=family)
  with pytest.raises(ValueError, match='The model of digits takes no `head_rank`'):
    build(model_family=family, gamma=0.5, head_rank=10)


def test_clients_have_test_examples_on_request():
  assert build().client_test is None
  task = build(client_test_fraction=0.2)
  assert task.client_test.client_ids == task.train.client_ids
  whole = build().train
  for c in whole.client_ids:
    assert task.client_test.num_examples(c) == round(0.2 * whole.num_examples(c))
    assert task.train.num_examples(c) + task.client_test.num_examples(c) == whole.num_examples(c)
  with pytest.raises(ValueError, match='must be below 1, found 1'):
    build(client_test_fraction=1)


NATURAL = ('qmnist', 'qmnist_two_fc', 'emnist_digits', 'emnist', 'emnist_two_fc', 'cifar100',
           'shakespeare', 'stackoverflow_nwp', 'stackoverflow_tags', 'stackexchange_nwp',
           'stackexchange_nwp_small', 'stackexchange_tags', 'keywords',
           'keywords_two_fc')  # fmt: skip


def test_the_default_partition_is_into_the_clients_of_the_data():
  found = {name: tasks.default_partition(name) for name in tasks.NAMES}
  assert found == {name: 'natural' if name in NATURAL else 'iid' for name in tasks.NAMES}
  assert tasks.default_partition('mine:make') == 'natural'
  for name in tasks.NAMES:
    tasks.check_partition(name, None)
    tasks.check_partition(name, tasks.default_partition(name))
  with pytest.raises(ValueError, match="or `package.module:function`, found 'mine'"):
    tasks.default_partition('mine')


def test_default_partition_and_number_of_clients():
  assert len(tasks.build('digits', seed=1).train.client_ids) == 100
  assert len(tasks.build('digits', num_clients=7, seed=1).train.client_ids) == 7
  by_speaker = tasks.build('keywords', data_dir=tasks.SYNTHETIC, seed=1)
  assert by_speaker.train.client_ids == ['speaker_0', 'speaker_1', 'speaker_2']
  some = tasks.build('keywords', data_dir=tasks.SYNTHETIC, num_clients=2, seed=1)
  assert len(some.train.client_ids) == 2
  with pytest.raises(ValueError, match='`num_clients` must be at least 1, found 0'):
    tasks.build('digits', num_clients=0, seed=1)
  with pytest.raises(ValueError, match='digits takes no `task_args`, found size'):
    tasks.build('digits', seed=1, task_args=dict(size='3'))


def test_named_tasks_have_no_source_of_their_own():
  assert tasks.source('digits') == {}
