import numpy as np

from tests.reports.run_folders import write_run
from tff_lowrank.reports import freezing_plots
from tff_lowrank.reports import plots
from tff_lowrank.reports import run_files

SETTINGS = dict(apf_check_every=2, apf_stability_threshold=0.3, apf_ema_decay=0.5)
COLUMNS = dict(
  frozen_fraction=[0.0, 0.25, 0.5], effective_perturbation=0.4, stability_threshold=0.3
)


def write_freezing(folder, seed=1):
  """A run of three rounds, with its trace of two tensors and two sampled parameters."""
  run = write_run(folder, seed, 1, 1, [0.1, 0.2, 0.3], columns=COLUMNS, **SETTINGS)
  np.savez(
    run / run_files.FREEZING,
    names=['dense/kernel', 'dense/bias'],
    shape_0=[2, 2], first_frozen_0=[1, 2, 3, -1], shape_1=np.zeros(0, int), first_frozen_1=[-1],
    sample_tensor=[0, 0], sample_index=[0, 3], sample_value=np.arange(6.0).reshape(3, 2),
    sample_frozen=np.array([[False, False], [True, False], [False, False]]),
  )  # fmt: skip
  run_files.write_sums(run)
  return run


def test_only_runs_that_freeze_have_plots(tmp_path):
  plain = ('a', write_run(tmp_path / 'a', 1, 1, 1, [0.1]))
  assert freezing_plots.plot_comparison([plain], tmp_path) == []
  runs = [plain, ('apf', write_freezing(tmp_path / 'b'))]
  names = [path.name for path in freezing_plots.plot_comparison(runs, tmp_path)]
  assert names == ['frozen_fraction.png', 'effective_perturbation.png']


def test_all_plots_of_a_run(tmp_path, monkeypatch):
  kept, save = {}, plots.save

  def keep(figure, path):
    kept[path.stem] = figure
    return save(figure, path)

  monkeypatch.setattr(plots, 'save', keep)
  written = freezing_plots.plot_run(write_freezing(tmp_path / 'run'), tmp_path)
  assert all(path.stat().st_size > 1000 for path in written) and len(written) == 4
  _, below = kept['frozen_fraction'].axes
  assert below.lines[0].get_ydata().tolist() == [0, 25, 50]
  labels = {axes.get_ylabel() for axes in kept['parameters'].axes}
  assert labels == {'dense/kernel, scalar 0', 'dense/kernel, scalar 3'}
  (axes,) = kept['stabilisation'].axes
  shown = [label.get_text() for label in axes.get_xticklabels()]
  assert shown == ['dense/kernel, 2x2', 'dense/bias, 1']


def test_when_tensors_froze(tmp_path):
  table = freezing_plots.stabilisation_table(write_freezing(tmp_path / 'run'))
  assert table['tensor'].tolist() == ['dense/kernel', 'dense/bias']
  assert table['shape'].tolist() == ['2x2', '1']
  assert table['frozen'].tolist() == [0.75, 0]
  assert table['mean'][0] == 2 and np.isnan(table['mean'][1])


def test_the_null_curve_has_a_step_for_each_check(tmp_path):
  curve = freezing_plots.null_curve(write_freezing(tmp_path / 'run'))
  assert len(curve) == 3 and curve[0] == 0 and curve[1] == curve[2]
