import numpy as np
import pytest

from tff_lowrank import tasks


def build(name='digits', **settings):
  settings = dict(partition='iid', num_clients=4, seed=1) | settings
  return tasks.build(name, **settings)


def test_digits_fits_together():
  task = build()
  assert len(task.train.client_ids) == 4
  model = task.build_model(seed=3)
  batch = next(iter(task.train.create_tf_dataset_for_client('client_0').batch(7)))
  batch = task.preprocess(batch)
  assert batch['x'].numpy().max() <= 1
  for name, spec in model.input_spec.items():
    assert spec.is_compatible_with(batch[name])


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


def test_real_tasks(shared_data):
  for name in ('mnist', 'fashion_mnist'):
    task = build(name, data_dir=str(shared_data), partition='shards:3', num_clients=100)
    assert sum(w.size for w in task.build_model(1).initial_weights[0]) == 431_080
    sizes = [task.train.num_examples(c) for c in task.train.client_ids]
    assert sum(sizes) == 60_000


def test_refuses_bad_arguments():
  with pytest.raises(ValueError, match="found 'cifar'"):
    build('cifar')
  with pytest.raises(ValueError, match='A partition must be'):
    build(partition='natural')
