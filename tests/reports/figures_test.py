import pandas as pd
import pytest

from tff_lowrank.reports import curves
from tff_lowrank.reports import figures


def curve(values):
  rounds = [*range(1, len(values) + 1)]
  spent = dict(rounds=rounds, bytes=[1e6 * r for r in rounds], seconds=[2 * r for r in rounds])
  return pd.DataFrame(dict(spent, round=rounds, eval_accuracy=values))


def test_buttons_choose_the_axis_of_all_curves():
  runs = {'a': [curve([0.1, 0.2]), curve([0.3, 0.4])], 'b': [curve([0.5])]}
  figure = figures.means(runs, 'eval_accuracy', curves.Metric(), curves.Budget('bytes', 1.5e6))
  line, band, other = figure.data
  assert list(line.x) == [1, 2] and list(other.x) == [1]
  assert list(band.x) == [1, 2, 2, 1] and list(band.y)[2:] == [100, 100]  # Cut off.
  (menu,) = figure.layout.updatemenus
  assert menu.active == 1 and figure.layout.shapes[0].x0 == 1.5
  by_time = menu.buttons[2].args
  assert by_time[0]['x'] == [[2, 4], [2, 4, 4, 2], [2]]
  assert by_time[1]['xaxis.title.text'] == 'Simulated time (s)' and by_time[1]['shapes'] == []


def test_what_is_no_fraction_is_shown_as_it_is():
  figure = figures.means(
    {'a': [curve([-3.0, 0.5])]}, 'eval_accuracy', curves.Metric('R squared', '')
  )
  assert list(figure.data[0].y) == [-3, 0.5]
  assert figure.layout.yaxis.title.text == 'Test R squared'
  assert '%{y:.2f}%{customdata' in figure.data[0].hovertemplate


def test_a_run_without_values_keeps_the_others_styles():
  runs = {'a': [curve([None, None])], 'b': [curve([0.5, 0.6])]}
  (drawn,) = figures.means(runs, 'eval_accuracy', curves.Metric()).data
  assert drawn.name == 'b' and drawn.marker.symbol == 'square-open'


def test_clients_of_all_seeds_are_one_band():
  parts = [
    pd.DataFrame(dict(round=1, accuracy=[0.0, 0.5])),
    pd.DataFrame(dict(round=1, accuracy=[1])),
  ]
  line, band = figures.clients({'a': parts, 'b': []}, curves.Metric()).data
  assert list(line.y) == [50] and list(band.y) == pytest.approx([10, 90])


def test_the_front_says_who_is_on_it():
  summary = pd.DataFrame(
    dict(method=['a', 'b', 'c'], final_accuracy=[0.5, 0.6, 0.4], final_accuracy_ci95=0.1,
         final_personal_accuracy=float('nan'), total_bytes=[1e6, 20e6, 3e6], total_bytes_ci95=0.0,
         pareto=['yes', 'open', 'no'])
  )  # fmt: skip
  figure = figures.front(summary, curves.Metric())
  steps, *points = figure.data
  assert list(steps.x) == [1, 20]
  assert [point.marker.symbol for point in points] == [
    'circle', 'square-open-dot', 'triangle-up-open',
  ]  # fmt: skip
  assert figure.layout.xaxis.type == 'log'
  assert points[0].error_y.array[0] == pytest.approx(10)


def test_room_for_all_lines_of_the_legend():
  short = figures.by_round(curve([0.1]), {'eval_accuracy': 'a'}, 'y')
  long = figures.by_round(curve([0.1]), {'eval_accuracy': 'a' * 100}, 'y')
  assert long.data[0].name.count('<br>') == 2
  assert long.layout.height - short.layout.height == 2 * 19
