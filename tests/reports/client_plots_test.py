from matplotlib import image
import numpy as np

from tests.reports.run_folders import write_run
from tff_lowrank.reports import client_plots
from tff_lowrank.reports import curves
from tff_lowrank.reports import plots


def test_median_and_band_of_the_clients_of_all_seeds(tmp_path, monkeypatch):
  kept, save = [], plots.save
  monkeypatch.setattr(plots, 'save', lambda figure, path: kept.append(figure) or save(figure, path))
  first, second = ([[0.1 * i for i in part]] * 2 for part in (range(5), range(5, 11)))
  runs = [
    ('a', write_run(tmp_path / 'a1', 1, 1, 1, [0.5, 0.5], clients=first)),
    ('none', write_run(tmp_path / 'n', 1, 1, 1, [0.5, 0.5])),
    ('a', write_run(tmp_path / 'a2', 2, 1, 1, [0.5, 0.5], clients=second)),
  ]
  (path,) = client_plots.plot_clients(runs, tmp_path / 'c.png', curves.Metric('recall at 5'))
  assert image.imread(path).std() > 0.05
  above, below = kept[0].axes
  np.testing.assert_allclose(above.lines[0].get_ydata(), [50, 50])
  ends = above.collections[0].get_datalim(above.transData)
  np.testing.assert_allclose([ends.ymin, ends.ymax], [10, 90])
  assert above.get_ylabel() == "Clients' recall at 5 (%)"
  np.testing.assert_allclose(below.lines[0].get_ydata(), [0.5, 0.5])
  assert len(above.lines) == 1


def test_nothing_is_drawn_of_runs_that_did_not_measure_clients(tmp_path):
  runs = [('a', write_run(tmp_path / 'a', 1, 1, 1, [0.5]))]
  assert client_plots.plot_clients(runs, tmp_path / 'c.png') == []
  assert not (tmp_path / 'c.png').exists()
