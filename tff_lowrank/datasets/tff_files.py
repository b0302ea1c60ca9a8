"""Finds the files of TFF's federated data sets in a folder."""

from collections.abc import Callable, Mapping
import dataclasses
import pathlib

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.datasets import client_files

SOURCE = 'https://storage.googleapis.com/tff-datasets-public/'

# Instead of a folder: a few examples that come with TFF, for tests.
SYNTHETIC = 'synthetic'


def find(data_dir: str | None, name: str, file: str) -> pathlib.Path | None:
  """`file` in the folder `data_dir` or in a folder called `name` there, or None."""
  if data_dir is None:
    return None
  folder = pathlib.Path(data_dir)
  return next((p for p in (folder / file, folder / name / file) if p.exists()), None)


def missing(data_dir: str | None, name: str, what: str) -> FileNotFoundError:
  """The error for missing files `what` of the data set `name`, with advice how to get them."""
  return FileNotFoundError(
    f'{name}: {data_dir or "--data_dir is not given, so this"} lacks {what}. Put it into a folder '
    'and pass the folder as --data_dir; `tff-lowrank datasets '
    f'--download={name} --data_dir=DIR` downloads it.'
  )


@dataclasses.dataclass(frozen=True)
class TffFiles:
  """The files of a data set in TFF's formats.

  name: its name here.
  sqlite: the SQLite file of TFF 0.87, at `SOURCE` with the suffix `.lzma`.
  splits: part (`train`, `test`) -> the split's name in the SQLite file.
  hdf5: part -> the HDF5 file of earlier versions of TFF.
  features: how to parse an example of the SQLite file; also the features read from the HDF5 file.
  synthetic: returns TFF's few synthetic examples.
  """

  name: str
  sqlite: str
  splits: Mapping[str, str]
  hdf5: Mapping[str, str]
  features: Mapping[str, tf.io.FixedLenFeature]
  synthetic: Callable[[], tff.simulation.datasets.ClientData]

  @property
  def url(self) -> str:
    return f'{SOURCE}{self.sqlite}.lzma'

  def open(self, data_dir: str | None, part: str) -> client_files.ClientFile:
    """The clients of `part`, from a file in either format.

    Raises:
      FileNotFoundError: If neither file is in the folder.
      FileError: If the file is damaged or of another format.
    """
    if data_dir == SYNTHETIC:
      return self._synthetic()
    path = find(data_dir, self.name, self.sqlite)
    if path is not None:
      return client_files.SqliteFile(path, self.splits[part], self.features)
    path = find(data_dir, self.name, self.hdf5[part])
    if path is not None:
      return client_files.Hdf5File(path, self.features)
    what = f'{self.sqlite} ({self.url}, decompressed with `xz -d --format=lzma`)'
    raise missing(data_dir, self.name, f'{what} and {self.hdf5[part]}, either of them')

  def _synthetic(self) -> client_files.ClientFile:
    clients = self.synthetic()
    return client_files.MemoryFile(
      {
        client_id: next(
          clients.create_tf_dataset_for_client(client_id).batch(1000).as_numpy_iterator()
        )
        for client_id in clients.client_ids
      }
    )
