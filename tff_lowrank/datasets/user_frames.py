"""Labelled examples in a pandas data frame: one per row, with columns of clients and labels."""

from collections.abc import Collection, Sequence
import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import user_data


@dataclasses.dataclass(frozen=True)
class Columns:
  """The columns of a data frame.

  client, label: the names of the columns of clients and labels.
  features: the names of all others, in order.
  classes: the sorted classes of text or categorical labels; None for numeric labels.
  """

  client: Any
  label: Any
  features: tuple[Any, ...]
  classes: tuple[Any, ...] | None


def columns_of(frame: pd.DataFrame, client: Any, label: Any) -> Columns:
  """The columns of the training examples; raises ValueError unless both names are columns."""
  if client is None or label is None:
    raise ValueError(
      'A data frame needs `client_column` and `label_column`, found '
      f'{client!r} and {label!r}; its columns are {list(frame.columns)}.'
    )
  _check_names(frame, [client, label])
  features = tuple(name for name in frame.columns if name not in (client, label))
  if client == label or not features:
    raise ValueError(
      f'A data frame needs a column of clients, one of labels and others, found {client!r} and '
      f'{label!r} of {list(frame.columns)}.'
    )
  labels = frame[label]
  is_number = not isinstance(labels.dtype, pd.CategoricalDtype) and (
    pd.api.types.is_numeric_dtype(labels.dtype)
  )
  _check_complete(labels)
  return Columns(client, label, features, None if is_number else _sorted(set(labels)))


def read(frame: pd.DataFrame, columns: Columns, form: user_data.Format) -> arrays.Split:
  """Reads examples: x float32 [n, features], y as in `user_data.Format`.

  Raises ValueError if a column is missing or has values that are not finite numbers, or if a label
  is not one of the classes.
  """
  _check_names(frame, [columns.label, *columns.features])
  labels = frame[columns.label]
  _check_complete(labels)
  if columns.classes is None:
    y = labels.to_numpy(getattr(labels.dtype, 'numpy_dtype', labels.dtype))  # Without dtype object.
  else:
    number = {value: i for i, value in enumerate(columns.classes)}
    if unknown := _sorted(set(labels) - set(number)):
      raise ValueError(
        f'The column {columns.label!r} must have only classes of the training examples, found '
        f'{unknown[0]!r}.'
      )
    y = np.array([number[value] for value in labels], np.int32)
  return form.split('data frame', _features(frame, columns.features), y)


def by_client(
  frame: pd.DataFrame, columns: Columns, form: user_data.Format
) -> arrays.ArrayClientData:
  """The rows of each client, in order. Errors: as `read`."""
  _check_names(frame, [columns.client])
  _check_complete(frame[columns.client])
  rows = frame.groupby(columns.client, observed=True).indices
  ids = user_data.text_ids(rows)
  return arrays.ArrayClientData(
    read(frame, columns, form), {ids[client]: found for client, found in rows.items()}
  )


def _sorted(values: Collection[Any]) -> tuple[Any, ...]:
  try:
    return tuple(sorted(values))
  except TypeError:  # Several types.
    return tuple(sorted(values, key=str))


def _check_names(frame: pd.DataFrame, names: Sequence[Any]) -> None:
  if not frame.columns.is_unique:
    twice = frame.columns[frame.columns.duplicated()][0]
    raise ValueError(
      f'The columns of a data frame must have different names, found {twice!r} twice.'
    )
  missing = [name for name in names if name not in frame.columns]
  if missing:
    raise ValueError(
      f'The data frame has no column {missing[0]!r}; its columns are {list(frame.columns)}.'
    )


def _check_complete(column: pd.Series) -> None:
  if column.isna().any():
    raise ValueError(
      f'The column {column.name!r} must have a value in every row, found none in '
      f'{int(column.isna().sum())} of {len(column)}.'
    )


def _features(frame: pd.DataFrame, names: Sequence[Any]) -> np.ndarray:
  """float32 [n, features]."""
  for name in names:
    if not pd.api.types.is_numeric_dtype(frame[name].dtype):
      raise ValueError(
        f'The column {name!r} must have numbers, found {frame[name].dtype}; remove it or convert '
        'it to numbers, for example with pandas.get_dummies.'
      )
  with np.errstate(over='ignore'):  # Reported below.
    features = frame[list(names)].to_numpy(np.float32, na_value=np.nan)
  is_wrong = ~np.isfinite(features).all(0)
  if is_wrong.any():
    name = names[int(is_wrong.argmax())]
    raise ValueError(
      f'The column {name!r} must have finite numbers, found other or missing values; remove such '
      'rows or fill them in.'
    )
  return features
