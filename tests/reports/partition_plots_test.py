import numpy as np
import pytest

from tff_lowrank.reports import partition_plots
from tff_lowrank.reports import plots


@pytest.fixture
def drawn(monkeypatch):
  kept, save = [], plots.save
  monkeypatch.setattr(plots, 'save', lambda figure, path: kept.append(figure) or save(figure, path))
  return kept


def test_picture_shows_shares_of_labels(tmp_path, drawn):
  counts = np.array([[3, 1], [0, 0], [0, 8]])
  partition_plots.plot_partition(
    counts.sum(1), counts, 'x', tmp_path / 'x.png', 'all 3 clients', ['a', '$b$', 'c']
  )
  left, right, *_ = drawn[0].axes
  assert sum(bar.get_height() for bar in left.patches) == 3
  np.testing.assert_array_equal(right.images[0].get_array(), [[0.75, 0.25], [0, 0], [0, 1]])
  assert left.get_title() == right.get_title() == 'Of all 3 clients'
  assert [label.get_text() for label in right.get_yticklabels()] == ['a', r'\$b\$', 'c']


def test_picture_says_which_clients_it_shows(tmp_path, drawn):
  counts = np.ones((60, 2), int)
  names = [f'client {i}' for i in range(60)]
  which = '60 random clients of 900'
  partition_plots.plot_partition(counts.sum(1), counts, 'x', tmp_path / 'x.png', which, names)
  left, right, *_ = drawn[0].axes
  assert left.get_title() == 'Of 60 random clients of 900'
  assert right.get_title() == 'Of the first 50 of 60 random clients of 900'
  assert len(right.images[0].get_array()) == 50
  assert [label.get_text() for label in right.get_yticklabels()] == names[:50:2]


def test_without_labels_only_sizes_are_drawn(tmp_path, drawn):
  partition_plots.plot_partition(np.array([1, 2]), None, 'x', tmp_path / 'x.png', 'all', ['a', 'b'])
  assert len(drawn[0].axes) == 1
