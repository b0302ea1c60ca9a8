import numpy as np
import pandas as pd
import pytest

from tff_lowrank import files
from tff_lowrank.reports import gradient_plots
from tff_lowrank.reports import plots


def write_study(folder, names, rounds=4):
  """Gradients of one tensor of as many coordinates as rounds, at right angles to each other."""
  histories = {}
  for i, _ in enumerate(names):
    histories |= {
      f'rounds_{i}': np.arange(1, rounds + 1),
      f'gram_{i}': np.eye(rounds)[np.newaxis],
      f'sums_{i}': np.zeros((1, rounds)),
    }
  np.savez(folder / gradient_plots.FILE, names=names, tensors=['dense/bias'], shapes=['4'],
           sizes=[4], **histories)  # fmt: skip
  gradient_plots.components(folder).to_csv(folder / gradient_plots.COMPONENTS, index=False)
  metrics = pd.DataFrame(dict(round=range(1, rounds + 1), eval_accuracy=0.5))
  metrics.to_csv(folder / 'metrics.csv', index=False)


def test_gradients_at_right_angles_are_components_each(tmp_path):
  write_study(tmp_path, ['mean'])
  table = gradient_plots.components(tmp_path)
  plain = table[(table['momentum'] == 0) & (table['tensor'] == gradient_plots.MODEL)]
  assert plain['n99'].tolist() == [1, 2, 3, 4]
  assert plain['consecutive'].dropna().tolist() == [0, 0, 0]
  assert set(table['tensor']) == {gradient_plots.MODEL, 'dense/bias'}
  assert '| mean | 0.0 | 4 | 4 | 4 | 4.0 | 4.0 | 0.000 |' in gradient_plots.to_markdown(tmp_path)


def test_every_client_is_in_the_legend(tmp_path, monkeypatch):
  names = ['mean', *(f'client_{i}' for i in range(14))]
  write_study(tmp_path, names)
  kept, save = {}, plots.save

  def keep(figure, path):
    kept[path.stem] = figure
    return save(figure, path)

  monkeypatch.setattr(plots, 'save', keep)
  drawn = gradient_plots.plot(tmp_path, tmp_path / 'plots')
  assert [path.stem for path in drawn] == ['components', 'clients', 'overlaps', 'overlaps_client']
  (legend,) = kept['clients'].legends
  assert [text.get_text() for text in legend.get_texts()] == names
  assert len({(x.get_color(), x.get_marker()) for x in kept['clients'].axes[0].lines}) == 15


def test_damaged_histories_are_told(tmp_path):
  (tmp_path / gradient_plots.FILE).write_bytes(b'PK')
  with pytest.raises(files.FileError, match='histories of gradients'):
    gradient_plots.components(tmp_path)
