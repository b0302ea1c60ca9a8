import pytest

from tests.reports import advice_table_test
from tff_lowrank.reports import advice_plots
from tff_lowrank.reports import plots


@pytest.mark.parametrize('measured, panels', [((), 1), ((0.89, None), 2)])
def test_predictions_and_what_was_measured(tmp_path, monkeypatch, measured, panels):
  kept, save = [], plots.save
  monkeypatch.setattr(plots, 'save', lambda figure, path: kept.append(figure) or save(figure, path))
  path = advice_plots.plot_savings(advice_table_test.advice(measured), tmp_path / 'x.png')
  assert path.stat().st_size > 1000
  left, *right = kept[0].axes
  assert len(left.figure.axes) == panels
  assert [label.get_text() for label in left.get_yticklabels()] == ['m a=1 *', 'm a=2']
  hollow = [line for line in left.lines if line.get_fillstyle() == 'none']
  assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in hollow] == [(25, 0), (25, 1)]
  for axes in right:
    assert axes.lines[0].get_xdata()[0] == pytest.approx(0.01)
    assert axes.get_xlabel() == 'Loss of accuracy against FedAvg'
