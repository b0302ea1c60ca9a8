import numpy as np
import pandas as pd
import pytest

from tff_lowrank.datasets import user_data
from tff_lowrank.datasets import user_frames

FORM = user_data.Format()


def frame():
  return pd.DataFrame(
    dict(b=[1, 2, 3, 4], who=['u', 'v', 'u', 'v'], a=[0.5, 1, 1.5, 2], what=['x', 'z', 'y', 'x'])
  )


def test_columns_and_rows():
  columns = user_frames.columns_of(frame(), 'who', 'what')
  assert columns == user_frames.Columns('who', 'what', ('b', 'a'), ('x', 'y', 'z'))
  clients = user_frames.by_client(frame(), columns, FORM)
  assert clients.client_ids == ['u', 'v']
  assert clients.examples('u').x.tolist() == [[1, 0.5], [3, 1.5]]
  assert clients.examples('v').y.tolist() == [2, 0]
  shuffled = user_frames.read(frame()[['what', 'a', 'b']], columns, FORM)
  assert shuffled.x.tolist() == [[1, 0.5], [2, 1], [3, 1.5], [4, 2]]
  assert shuffled.x.dtype == np.float32 and shuffled.y.dtype == np.int32


def test_ids_of_any_type():
  for who, expected in (
    ([2, 1, 2, 1], ['1', '2']),
    (pd.Categorical(['u', 'v', 'u', 'v'], ['w', 'v', 'u']), ['u', 'v']),
    (pd.to_datetime(['2024-01-02'] * 4), ['2024-01-02 00:00:00']),
  ):
    given = frame().assign(who=who)
    columns = user_frames.columns_of(given, 'who', 'what')
    assert user_frames.by_client(given, columns, FORM).client_ids == expected


def test_labels_of_several_types_are_ordered_as_text():
  given = frame().assign(what=['b', 3, 'a', 3])
  columns = user_frames.columns_of(given, 'who', 'what')
  assert columns.classes == (3, 'a', 'b')
  assert user_frames.read(given, columns, FORM).y.tolist() == [2, 0, 1, 0]


@pytest.mark.parametrize(
  'given, client, label, message',
  [
    (frame(), 'who', None, "found 'who' and None; its columns are"),
    (frame(), 'who', 'y', "no column 'y'"),
    (frame(), 'who', 'who', 'a column of clients, one of labels and others'),
    (frame()[['who', 'what']], 'who', 'what', 'a column of clients, one of labels and others'),
    (pd.concat([frame(), frame()], axis=1), 'who', 'what', "found 'b' twice"),
    (frame().assign(what=None), 'who', 'what', "'what' must have .*, found none in 4 of 4"),
  ],
)
def test_what_is_wrong_with_the_columns(given, client, label, message):
  with pytest.raises(ValueError, match=message):
    user_frames.columns_of(given, client, label)


def test_features_that_are_no_numbers():
  columns = user_frames.columns_of(frame(), 'who', 'what')
  for change, message in (
    (dict(a='1'), "'a' must have numbers, found object"),
    (dict(a=pd.Categorical([1, 2, 1, 2])), "'a' must have numbers, found category"),
    (dict(b=pd.to_datetime(['2024'] * 4)), "'b' must have numbers, found datetime64"),
    (dict(b=[1, np.inf, 2, 3]), "'b' must have finite numbers"),
    (dict(b=pd.array([1, None, 2, 3], 'Int64')), "'b' must have finite numbers"),
    (dict(a=1e300), "'a' must have finite numbers"),
  ):
    with pytest.raises(ValueError, match=message):
      user_frames.read(frame().assign(**change), columns, FORM)
