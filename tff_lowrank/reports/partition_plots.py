"""A plot of how examples are distributed over clients."""

from collections.abc import Sequence
import pathlib

from matplotlib import ticker
import numpy as np

from tff_lowrank.reports import plots

_MAX_ROWS = 50
# The number of clients whose names are shown, and the length of these names.
_MAX_NAMES, _MAX_NAME = 25, 20


def plot_partition(
  sizes: np.ndarray,
  label_counts: np.ndarray | None,
  title: str,
  path: pathlib.Path,
  which: str,
  clients: Sequence[str],
) -> None:
  """Plots the number of examples per client and, if there are labels, per label.

  Args:
    sizes: [num_clients] the number of examples of each client.
    label_counts: [num_clients, num_classes], or None. The first 50 clients are shown.
    title: The title of the plot.
    path: The PNG file to write; its folder is created.
    which: A description of these clients, such as `'all 20 clients'`.
    clients: The name of each client.
  """
  columns = 1 if label_counts is None else 2
  figure, axes = plots.subplots(1, columns, figsize=(6 * columns, 5), squeeze=False)
  figure.suptitle(title)
  left, *right = axes[0]
  left.hist(sizes, bins=min(30, len(np.unique(sizes))))
  left.set(xlabel='Examples', ylabel='Clients')
  left.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
  left.set_title(f'Of {which}', fontsize='small')
  for axis in right:
    assert label_counts is not None  # Else there is no right.
    rows = label_counts[:_MAX_ROWS]
    shares = rows / np.maximum(rows.sum(1, keepdims=True), 1)
    image = axis.imshow(shares, aspect='auto', interpolation='nearest', vmin=0)
    axis.set(xlabel='Label', ylabel='Client')
    shown = range(0, len(rows), -(-len(rows) // _MAX_NAMES))
    axis.set_yticks(shown, [plots.as_text(clients[i][:_MAX_NAME]) for i in shown], fontsize='small')
    is_all = len(rows) == len(label_counts)
    axis.set_title(
      f'Of {which}' if is_all else f'Of the first {len(rows)} of {which}', fontsize='small'
    )
    figure.colorbar(image, ax=axis, label="Fraction of the client's examples")
  plots.save(figure, path)
