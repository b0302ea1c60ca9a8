"""Features of spoken keywords, for the LSTM of APF's experiments, from a .npz file.

APF (Chen et al., ICDCS 2021) trains on the 10-keyword subset of Google's Speech Commands (Warden,
2018, arXiv 1804.03209; CC BY 4.0) as 50 frames of 10 features. Any such set serves: make
`keywords.npz` with `numpy.savez`, of

  x: [num_examples, num_frames, num_features], any numbers: features of equally long recordings,
    such as log-mel energies or MFCCs;
  y: [num_examples] whole numbers from 0: which keyword;
  speaker: [num_examples], numbers or text: who said it;
  is_test: [num_examples] booleans, optional: what belongs to the test set. Without it, a tenth of
    each keyword's examples, the same in every call.
"""

import pathlib
from typing import NamedTuple
import zipfile

import numpy as np
from sklearn import model_selection

from tff_lowrank.datasets import arrays

FILE = 'keywords.npz'
TEST_FRACTION = 0.1


class Keywords(NamedTuple):
  """x: float32 [num_examples, num_frames, num_features]; y: int32 [num_examples].

  speakers: [len(train.y)] text. num_classes: keywords, in the training or the test set.
  """

  train: arrays.Split
  test: arrays.Split
  speakers: np.ndarray
  num_classes: int

  def by_speaker(self) -> arrays.ArrayClientData:
    """The training examples with a client for each speaker."""
    indices = {f'speaker_{s}': np.flatnonzero(self.speakers == s) for s in set(self.speakers)}
    return arrays.ArrayClientData(self.train, indices)


def made_up() -> Keywords:
  """Random features of APF's shape with labels, of three speakers."""
  train, test = arrays.made_up((50, 10), 10)
  train, test = (arrays.Split(x.astype(np.float32), y) for x, y in (train, test))
  return Keywords(train, test, (np.arange(len(train.y)) % 3).astype(np.str_), 10)


def _check(path: pathlib.Path, found: dict[str, np.ndarray]) -> None:
  missing = {'x', 'y', 'speaker'} - set(found)
  if missing:
    raise ValueError(f'{path}: expected x, y and speaker, found {", ".join(found) or "nothing"}.')
  x, y, speaker = found['x'], found['y'], found['speaker']
  if x.ndim != 3 or y.shape != x.shape[:1] or speaker.shape != y.shape or not len(y):
    raise ValueError(
      f'{path}: expected x of shape [n, frames, features], y and speaker of shape [n], found '
      f'{list(x.shape)}, {list(y.shape)} and {list(speaker.shape)}.'
    )
  if x.dtype.kind not in 'iuf' or not np.isfinite(x).all():
    raise ValueError(f'{path}: expected finite numbers in x, found type {x.dtype} or others.')
  if y.dtype.kind not in 'iu' or y.min() < 0:
    raise ValueError(f'{path}: expected whole numbers from 0 in y, found type {y.dtype} or others.')
  is_test = found.get('is_test')
  if is_test is not None and (is_test.shape != y.shape or is_test.dtype != np.bool_):
    raise ValueError(
      f'{path}: expected booleans of shape {list(y.shape)} in is_test, found type {is_test.dtype}, '
      f'shape {list(is_test.shape)}.'
    )


def _split(path: pathlib.Path, y: np.ndarray) -> np.ndarray:
  """Which examples are for the test, where the file does not say it."""
  try:
    _, test = model_selection.train_test_split(
      np.arange(len(y)), test_size=TEST_FRACTION, stratify=y, random_state=0
    )
  except ValueError as e:
    raise ValueError(f'{path}: cannot set a tenth aside as the test set: {e}') from e
  is_test = np.zeros(len(y), np.bool_)
  is_test[test] = True
  return is_test


def load_data(data_dir: str | None = None) -> Keywords:
  """Reads `keywords.npz` in `data_dir`, or in a folder `keywords` there.

  Raises:
    FileNotFoundError: If the file is missing.
    ValueError: If it is damaged or not as the module says.
  """
  how = f'Make {FILE} as tff_lowrank/datasets/keywords.py says and name its folder with --data_dir.'
  if data_dir is None:
    raise FileNotFoundError(f'keywords needs a file that is not part of this package. {how}')
  folder = pathlib.Path(data_dir)
  paths = [folder / FILE, folder / 'keywords' / FILE]
  path = next((p for p in paths if p.is_file()), None)
  if path is None:
    raise FileNotFoundError(f'keywords: {folder} lacks {FILE}. {how}')
  try:
    with np.load(path, allow_pickle=False) as file:
      found = dict(file)
  except (EOFError, OSError, ValueError, zipfile.BadZipFile) as e:
    raise ValueError(f'{path}: expected a whole .npz file of plain arrays, found: {e}.') from e
  _check(path, found)
  x, y = found['x'].astype(np.float32), found['y'].astype(np.int32)
  is_test = found['is_test'] if 'is_test' in found else _split(path, y)
  train, test = (arrays.Split(x[part], y[part]) for part in (~is_test, is_test))
  if not len(train.y) or not len(test.y):
    raise ValueError(f'{path}: expected training and test examples, found only one of them.')
  return Keywords(train, test, found['speaker'][~is_test].astype(np.str_), int(y.max()) + 1)
