"""A catalog of the data sets: descriptions, sizes, licences, and where their files are."""

import dataclasses

from tff_lowrank.datasets import cifar
from tff_lowrank.datasets import download
from tff_lowrank.datasets import emnist
from tff_lowrank.datasets import keywords
from tff_lowrank.datasets import mnist
from tff_lowrank.datasets import qmnist
from tff_lowrank.datasets import shakespeare
from tff_lowrank.datasets import stackexchange
from tff_lowrank.datasets import stackoverflow
from tff_lowrank.datasets import tff_files


@dataclasses.dataclass(frozen=True)
class DataSet:
  """A data set.

  about: a description.
  clients: its natural clients for training, as text; empty if it has none.
  sizes: the numbers of training and test examples.
  licence: the licence of the data.
  tasks: those of `tasks.NAMES` that use it.
  remote: the files that can be downloaded.
  by_hand: the file that users must create, if there is no download.
  """

  about: str
  clients: str
  sizes: str
  licence: str
  tasks: tuple[str, ...]
  remote: tuple[download.RemoteFile, ...] = ()
  by_hand: str = ''


def _mnist_like(name: str, *md5: str) -> tuple[download.RemoteFile, ...]:
  return tuple(
    download.RemoteFile(mnist.SOURCES[name] + file, f'md5:{digest}')
    for file, digest in zip(mnist.FILES, md5, strict=True)
  )


def _cifar(name: str) -> tuple[download.RemoteFile, ...]:
  version = cifar.VERSIONS[name][0]
  return (download.RemoteFile(cifar.SOURCE + version.archive, f'md5:{version.md5}'),)


def _counts(file: str, sha256: str) -> download.RemoteFile:
  return download.RemoteFile(f'{tff_files.SOURCE}{file}.tar.bz2', f'sha256:{sha256}')


_MNIST = _mnist_like(
  'mnist',
  'f68b3c2dcbeaaa9fbdd348bbdeb94873',
  'd53e105ee54ea40749a09fcbcd1e9432',
  '9fb629c4189551a2d022fa330f9573f3',
  'ec29112dd5afa0611ce80d1b7f02629c',
)
_FASHION_MNIST = _mnist_like(
  'fashion_mnist',
  '8d4fb7e6c68d591d4c3dfef9ec88bf0d',
  '25c81989df183df01b3e8a0aad5dffbe',
  'bef4ecab320f06d8554ea6380940ec79',
  'bb300cfdad3c16e7a12a480ee83cd310',
)

DATA_SETS = {
  'digits': DataSet(
    'Handwritten digits, 8x8, of scikit-learn', '', '1,437 + 360', 'CC BY 4.0', ('digits',)
  ),
  'mnist': DataSet(
    'Handwritten digits', '', '60,000 + 10,000', 'CC BY-SA 3.0', ('mnist', 'mnist_two_fc'), _MNIST
  ),
  'fashion_mnist': DataSet(
    'Clothes',
    '',
    '60,000 + 10,000',
    'MIT',
    ('fashion_mnist', 'fashion_mnist_two_fc'),
    _FASHION_MNIST,
  ),
  'qmnist': DataSet(
    'MNIST by writer',
    '539 writers',
    '60,000 + 10,000',
    'CC BY-SA 3.0; writers: BSD',
    ('qmnist', 'qmnist_two_fc'),
    (
      *_MNIST,
      download.RemoteFile(qmnist.SOURCE + qmnist.LABELS, 'md5:0058f8dd561b90ffdd0f734c6a30e5e4'),
    ),
  ),
  'emnist': DataSet(
    'Handwritten digits and letters',
    '3,400 writers (digits: 3,383)',
    '671,585 + 77,483 (digits: 341,873 + 40,832)',
    'public domain',
    ('emnist_digits', 'emnist', 'emnist_two_fc'),
    (download.RemoteFile(emnist.files(only_digits=False).url, max_bytes=1 << 33),),
  ),
  'cifar10': DataSet(
    'Coloured images, 10 classes',
    '',
    '50,000 + 10,000',
    'not stated; cite Krizhevsky, 2009',
    ('cifar10', 'cifar10_cnn', 'cifar10_resnet18', 'cifar10_vgg16', 'cifar10_vgg16_quarter'),
    _cifar('cifar10'),
  ),
  'cifar100': DataSet(
    'Coloured images, 100 classes',
    '500 by Pachinko allocation',
    '50,000 + 10,000',
    'not stated; cite Krizhevsky, 2009',
    ('cifar100', 'cifar100_vgg16'),
    (*_cifar('cifar100'), download.RemoteFile(cifar.PACHINKO.url)),
  ),
  'shakespeare': DataSet(
    'Lines of plays',
    '715 roles',
    '16,068 + 2,356 snippets',
    'public domain',
    ('shakespeare',),
    (download.RemoteFile(shakespeare.FILES.url),),
  ),
  'stackoverflow': DataSet(
    'Sentences of questions and answers',
    '342,477 users',
    '135,818,730 + 16,586,035',
    'CC BY-SA 3.0',
    ('stackoverflow_nwp', 'stackoverflow_tags'),
    (
      download.RemoteFile(stackoverflow.FILES.url, max_bytes=1 << 38),
      _counts(
        stackoverflow.WORD_COUNTS,
        '1dc00256d6e527c54b9756d968118378ae14e6692c0b3b6cad470cdd3f0c519c',
      ),
      _counts(
        stackoverflow.TAG_COUNTS,
        '6fe281cec490d9384a290d560072438e7e2b377bbb823876ce7bd6f82696772d',
      ),
    ),
  ),
  'stackexchange': DataSet(
    'Sentences of small sites like Stack Overflow',
    'users in the file',
    'as in the file',
    'CC BY-SA 2.5 to 4.0',
    ('stackexchange_nwp', 'stackexchange_nwp_small', 'stackexchange_tags'),
    by_hand=stackexchange.FILE,
  ),
  'keywords': DataSet(
    'Features of spoken words',
    'speakers in the file',
    'as in the file',
    'that of the recordings',
    ('keywords', 'keywords_two_fc'),
    by_hand=keywords.FILE,
  ),
}
