"""The interactive figures of the reports."""

from collections.abc import Mapping, Sequence
import html

import pandas as pd
from plotly import graph_objects

from tff_lowrank.reports import curves as curves_lib
from tff_lowrank.reports import statistics
from tff_lowrank.reports import table as table_lib

AXES = {
  'rounds': 'Rounds',
  'bytes': 'Traffic, up and down (MB)',
  'seconds': 'Simulated time (s)',
}
_COLORS = (
  '#4269d0', '#e8743b', '#2f9e63', '#d6336c', '#7b5ea7', '#8a5a44', '#0f9fb5', '#a08800', '#5c6770',
  '#111111', '#9ec1ff', '#ffb48a', '#7fd3a2', '#ff9fc0', '#c4aee8', '#c9a08c', '#7edbe6', '#d9cf6b',
)  # fmt: skip
_GRID = '#e6e8eb'
# Heights in pixels: what is above the plot, the plot, its axis, and an entry of the legend below.
_ABOVE, _PLOT, _AXIS, _ENTRY = 50, 350, 60, 21


def as_text(text: str) -> str:
  """So that plotly, which reads some tags and entities in its texts, shows `text` as it is."""
  return html.escape(text, quote=False)


def color(i: int) -> str:
  return _COLORS[i % len(_COLORS)]


def _faint(i: int) -> str:
  red, green, blue = (int(color(i)[j : j + 2], 16) for j in (1, 3, 5))
  return f'rgba({red},{green},{blue},0.18)'


def layout(x: str, y: str) -> dict[str, object]:
  """What all figures have in common, with the titles of both axes."""
  axis = dict(gridcolor=_GRID, linecolor='#9aa0a6', zeroline=False, automargin=True)
  return dict(
    template='none',
    font=dict(family='system-ui, sans-serif', size=13, color='#202124'),
    margin=dict(l=70, r=20, t=_ABOVE),
    xaxis=dict(title=dict(text=x), rangemode='tozero', **axis),
    yaxis=dict(title=dict(text=y), **axis),
    legend=dict(yanchor='top', y=-_AXIS / _PLOT, x=0, tracegroupgap=0),
    hovermode='closest',
  )


def _make_room(figure: graph_objects.Figure) -> graph_objects.Figure:
  """The figure, as high as its legend needs."""
  entries = sum(trace.showlegend is not False for trace in figure.data)
  below = _AXIS + _ENTRY * (entries + 1)
  return figure.update_layout(height=_ABOVE + _PLOT + below, margin_b=below)


def mean_curve(curves: Sequence[pd.DataFrame], column: str) -> pd.DataFrame:
  """The mean over runs of `column`, by round, where all of them have a value.

  Columns: what was spent (`rounds`, `bytes`, `seconds`), `mean`, and `half`, half the 95 %
  interval, NaN of one run.
  """
  rows = pd.concat(curves).dropna(subset=column).groupby('round')
  count = rows[column].count()
  found = rows[list(curves_lib.SPENT)].mean().assign(mean=rows[column].mean())
  found['half'] = statistics.half_width(rows[column].std(), count)
  return found[count == len(curves)]


def _by_axis(curve: pd.DataFrame) -> dict[str, list[float]]:
  return {name: list(curve[name] / size) for name, (_, size) in curves_lib.SPENT.items()}


def _band(name: str, curve: pd.DataFrame, i: int) -> graph_objects.Scatter:
  """The interval around a curve, as far as accuracies go: an area that goes there and back."""
  low, high = curve['mean'] - curve['half'], curve['mean'] + curve['half']
  return graph_objects.Scatter(
    y=100 * pd.concat([low, high[::-1]]).clip(0, 1), fill='toself', fillcolor=_faint(i),
    line_width=0, mode='lines', hoverinfo='skip', showlegend=False, legendgroup=name,
  )  # fmt: skip


def _line(name: str, curve: pd.DataFrame, i: int, dash: str) -> graph_objects.Scatter:
  halves = ['' if pd.isna(half) else f' ± {100 * half:.2f}' for half in curve['half']]
  return graph_objects.Scatter(
    y=100 * curve['mean'], name=name, mode='lines+markers', line=dict(color=color(i), dash=dash),
    marker_size=4, legendgroup=name, customdata=list(zip(curve['rounds'], halves, strict=True)),
    hovertemplate='%{y:.2f}%{customdata[1]} %<br>%{x:.5g}, round %{customdata[0]}'
    f'<extra>{name}</extra>',
  )  # fmt: skip


def accuracy(
  runs: Mapping[str, Sequence[pd.DataFrame]],
  columns: Mapping[str, str],
  budget: curves_lib.Budget | None = None,
) -> graph_objects.Figure:
  """Accuracies against rounds, bytes or seconds, which buttons choose.

  Args:
    runs: Name -> the curves of its runs, drawn as their mean with its 95 % interval.
    columns: Which accuracies, at most two: the column and what is added to the name.
    budget: Where the runs are compared, marked by a line; its axis is chosen first.
  """
  traces, places = [], []
  for i, (method, curves) in enumerate(runs.items()):
    for (column, addition), dash in zip(columns.items(), ('solid', 'dot'), strict=False):
      curve = mean_curve(curves, column)
      if curve.empty:
        continue
      name = as_text(f'{method} {addition}'.strip())
      places.append(_by_axis(curve))
      traces.append(_line(name, curve, i, dash))
      if curve['half'].notna().any():
        places.append(_by_axis(pd.concat([curve, curve[::-1]])))
        traces.append(_band(name, curve, i))
  figure = graph_objects.Figure(traces, layout(AXES['rounds'], 'Test accuracy (%)'))
  _add_axis_buttons(figure, places, budget)
  return _make_room(figure)


def _mark(budget: curves_lib.Budget | None, axis: str) -> list[dict[str, object]]:
  if budget is None or budget.spent != axis:
    return []
  x = budget.amount / curves_lib.SPENT[axis][1]
  line = dict(color='#5f6368', dash='dot', width=1)
  return [dict(type='line', x0=x, x1=x, y0=0, y1=1, yref='paper', line=line)]


def _add_axis_buttons(
  figure: graph_objects.Figure,
  places: Sequence[Mapping[str, list[float]]],
  budget: curves_lib.Budget | None,
) -> None:
  """Buttons that choose what is on the x axis; `places` has the x of each trace by axis."""
  first = budget.spent if budget else 'rounds'
  for trace, place in zip(figure.data, places, strict=True):
    trace.x = place[first]
  figure.update_layout(xaxis_title_text=AXES[first], shapes=_mark(budget, first))
  buttons = [
    dict(
      label=title,
      method='update',
      args=[
        {'x': [place[axis] for place in places]},
        {'xaxis.title.text': title, 'xaxis.autorange': True, 'shapes': _mark(budget, axis)},
      ],
    )
    for axis, title in AXES.items()
  ]
  menu = dict(type='buttons', direction='right', x=0, xanchor='left', y=1.13, yanchor='top',
              buttons=buttons, active=list(AXES).index(first), bgcolor='#ffffff',
              bordercolor='#c4c7cc', font_size=12, pad=dict(t=0, b=0))  # fmt: skip
  figure.update_layout(updatemenus=[menu])


def pareto(summary: pd.DataFrame) -> graph_objects.Figure:
  """Mean final accuracy against mean total traffic, a point a method, and the front as steps."""
  judged = table_lib.judged_by(summary)
  megabytes, percent = summary['total_bytes'] / 1e6, 100 * summary[judged]
  width = 100 * summary[f'{judged}_ci95']
  title = f'Final {"personal " * (judged != "final_accuracy")}test accuracy (%)'
  figure = graph_objects.Figure(layout=layout(AXES['bytes'], title))
  front = summary['pareto']
  order = megabytes[front].sort_values().index
  figure.add_scatter(
    x=megabytes[order], y=percent[order], mode='lines', line=dict(shape='hv', dash='dash'),
    line_color='#9aa0a6', name='Pareto front', hoverinfo='skip',
  )  # fmt: skip
  for i, row in enumerate(summary.itertuples()):
    name = as_text(row.method)
    figure.add_scatter(
      x=[row.total_bytes / 1e6], y=[percent.iloc[i]], name=name, mode='markers',
      marker=dict(size=11, color=color(i), symbol='circle' if row.pareto else 'circle-open'),
      error_y=dict(array=[width.iloc[i]], thickness=1),
      error_x=dict(array=[row.total_bytes_ci95 / 1e6], thickness=1),
      hovertemplate=f'%{{y:.2f}} % for %{{x:.5g}} MB<extra>{name}</extra>',
    )  # fmt: skip
  if megabytes.max() > 10 * megabytes.min() > 0:
    figure.update_xaxes(type='log')
  return _make_room(figure)


def by_round(metrics: pd.DataFrame, columns: Mapping[str, str], y: str) -> graph_objects.Figure:
  """Columns of metrics.csv against the round; `columns` maps each to its name in the legend."""
  figure = graph_objects.Figure(layout=layout(AXES['rounds'], y))
  for i, (column, name) in enumerate(columns.items()):
    rows = metrics.dropna(subset=column)
    figure.add_scatter(
      x=rows['round'], y=rows[column], name=as_text(name), line_color=color(i), mode='lines'
    )
  figure.update_layout(showlegend=True, yaxis_rangemode='tozero')
  return _make_room(figure)
