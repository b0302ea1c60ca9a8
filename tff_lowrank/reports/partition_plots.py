"""A picture of how examples lie on clients."""

import pathlib

import matplotlib

matplotlib.use('Agg')

from matplotlib import pyplot as plt
import numpy as np

from tff_lowrank.reports import plots

_MAX_ROWS = 50


def plot_partition(
  sizes: np.ndarray, label_counts: np.ndarray | None, title: str, path: pathlib.Path
) -> None:
  """Draws how many examples clients have and, if there are labels, of which ones.

  Args:
    sizes: [num_clients] examples of each client.
    label_counts: [num_clients, num_classes], or None. The first 50 clients are drawn.
    title: Of the picture.
    path: The PNG to write; its folder is made.
  """
  columns = 1 if label_counts is None else 2
  figure, axes = plt.subplots(
    1, columns, figsize=(6 * columns, 5), layout='constrained', squeeze=False
  )
  figure.suptitle(title)
  left, *right = axes[0]
  left.hist(sizes, bins=min(30, len(np.unique(sizes))))
  left.set(xlabel='Examples', ylabel='Clients')
  for axis in right:
    rows = label_counts[:_MAX_ROWS]
    shares = rows / np.maximum(rows.sum(1, keepdims=True), 1)
    image = axis.imshow(shares, aspect='auto', interpolation='nearest', vmin=0)
    axis.set(xlabel='Label', ylabel='Client')
    figure.colorbar(image, ax=axis, label="Share of the client's labels")
  plots.save(figure, path)
