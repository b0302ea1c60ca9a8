import pathlib

from tff_lowrank import tasks
from tff_lowrank.datasets import catalog
from tff_lowrank.datasets import cifar
from tff_lowrank.datasets import mnist


def test_every_task_is_of_one_data_set():
  listed = [task for data_set in catalog.DATA_SETS.values() for task in data_set.tasks]
  assert sorted(listed) == sorted(tasks.NAMES)


def test_everything_but_the_embedded_set_says_how_to_get_it():
  for name, data_set in catalog.DATA_SETS.items():
    assert bool(data_set.remote) + bool(data_set.by_hand) == (name != 'digits')
    for remote in data_set.remote:
      assert remote.url.startswith('http')
      # TFF's SQLite files are the only ones whose sums are not known beforehand.
      assert (remote.checksum is None) == remote.url.endswith('.sqlite.lzma')


def test_results_are_what_loaders_look_for():
  results = {
    name: {remote.result for remote in data_set.remote}
    for name, data_set in catalog.DATA_SETS.items()
  }
  assert results['mnist'] == set(mnist.FILES)
  assert results['qmnist'] == {*mnist.FILES, 'qmnist-train-labels-idx2-int.gz'}
  assert results['cifar100'] == {'cifar-100-binary.tar.gz', 'cifar100.sqlite'}
  assert results['cifar10'] == {cifar.VERSIONS['cifar10'][0].archive}
  assert results['emnist'] == {'emnist_all.sqlite'}
  assert results['stackoverflow'] == {
    'stackoverflow.sqlite',
    'stackoverflow.word_count',
    'stackoverflow.tag_count',
  }


def test_sources_are_named_where_the_data_is_read():
  folder = pathlib.Path(catalog.__file__).parent
  for module, name in (('emnist', 'emnist'), ('cifar', 'cifar100'), ('shakespeare',) * 2,
                       ('stackoverflow',) * 2):  # fmt: skip
    text = (folder / f'{module}.py').read_text()
    sqlite = [r.url for r in catalog.DATA_SETS[name].remote if r.url.endswith('.sqlite.lzma')]
    assert sqlite and all(url in text for url in sqlite)
