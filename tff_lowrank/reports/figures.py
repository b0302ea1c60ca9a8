"""The interactive figures of the reports."""

from collections.abc import Iterable, Mapping, Sequence
import html

import pandas as pd
from plotly import graph_objects

from tff_lowrank.reports import curves as curves_lib
from tff_lowrank.reports import statistics
from tff_lowrank.reports import styles
from tff_lowrank.reports import table as table_lib

# The titles of x axes, and short ones for the buttons of a narrow page.
AXES = {
  'rounds': ('Rounds', 'Rounds'),
  'bytes': ('Uplink + downlink (MB)', 'Bytes'),
  'seconds': ('Simulated time (s)', 'Time'),
}
_GRID = '#e6e8eb'
# Heights in pixels: above the plot, the plot, its axis, and a line of the legend below.
_ABOVE, _PLOT, _AXIS, _LINE = 75, 350, 75, 19
# Characters in a line of the legend, which fit a page of 400 pixels.
_LEGEND_WIDTH = 38
# In pixels. The first label's line, which is solid, stays visible under dashed lines.
_FIRST_WIDTH, _WIDTH = 4, 2


def as_text(text: str) -> str:
  """Escapes `text` for plotly, which interprets some tags and entities."""
  return html.escape(text, quote=False)


def _name(text: str) -> str:
  """An entry of the legend, wrapped to lines."""
  return '<br>'.join(map(as_text, styles.wrapped(text, _LEGEND_WIDTH)))


def _line(style: styles.Style) -> dict[str, object]:
  """Plotly's line properties of a style."""
  width = _WIDTH if style.dash else _FIRST_WIDTH
  dash = ','.join(f'{_WIDTH * x:g}px' for x in style.dash) or 'solid'
  return dict(color=style.color, dash=dash, width=width)


def _sizes(style: styles.Style, count: int) -> list[float]:
  """The sizes of a curve's markers in pixels, 0 for no marker."""
  marked = range(count)[style.marked(count)]
  return [1.2 * style.size if i in marked else 0 for i in range(count)]


def _faint(color: str, alpha: float) -> str:
  red, green, blue = (int(color[j : j + 2], 16) for j in (1, 3, 5))
  return f'rgba({red},{green},{blue},{alpha:.3f})'


def layout(x: str, y: str) -> dict[str, object]:
  """The common layout of all figures, with the titles of both axes."""
  axis = dict(gridcolor=_GRID, linecolor='#9aa0a6', zeroline=False, automargin=True)
  return dict(
    template='none',
    font=dict(family='system-ui, sans-serif', size=13, color='#202124'),
    margin=dict(l=55, r=10, t=_ABOVE),
    xaxis=dict(title=dict(text=x, standoff=8), rangemode='tozero', **axis),
    yaxis=dict(title=dict(text=as_text(y), standoff=8), **axis),
    legend=dict(x=0, y=-_AXIS / _PLOT, yanchor='top', tracegroupgap=0, font_size=12),
    hovermode='closest',
  )  # fmt: skip


def make_room(figure: graph_objects.Figure) -> graph_objects.Figure:
  """Makes the figure as high as its legend needs."""
  names = [trace.name or '' for trace in figure.data if trace.showlegend is not False]
  lines = sum(name.count('<br>') + 1 for name in names)
  below = _AXIS + _LINE * (lines + 1)
  return figure.update_layout(height=_ABOVE + _PLOT + below, margin_b=below, showlegend=True)


def _by_axis(curve: pd.DataFrame) -> dict[str, list[float]]:
  return {
    name: list(curve[name] / size)
    for name, (_, size) in curves_lib.SPENT.items()
    if name in curve
  }  # fmt: skip


def _band(
  name: str, curve: pd.DataFrame, style: styles.Style, alpha: float
) -> graph_objects.Scatter:
  """The area between the ends of a curve's intervals, as one closed outline."""
  ends = pd.concat([curve['low'], curve['high'][::-1]])
  return graph_objects.Scatter(
    y=ends, fill='toself', fillcolor=_faint(style.color, alpha), line_width=0,
    mode='lines', hoverinfo='skip', showlegend=False, legendgroup=name,
  )  # fmt: skip


def _curve(
  name: str, curve: pd.DataFrame, style: styles.Style, metric: curves_lib.Metric
) -> graph_objects.Scatter:
  """A line with hollow markers, staggered between labels, and the hover text of its points."""
  ends = curve[['low', 'high']].itertuples(index=False)
  texts = ['' if pd.isna(low) else f' ({low:.2f} to {high:.2f})' for low, high in ends]
  sizes = _sizes(style, len(curve))
  return graph_objects.Scatter(
    y=curve['middle'], name=_name(name), mode='lines+markers', line=_line(style),
    marker=dict(symbol=f'{style.symbol}-open', size=sizes, line_width=2), legendgroup=name,
    customdata=list(zip(curve['rounds'], texts, strict=True)),
    hovertemplate=f'%{{y:.2f}}{as_text(metric.sign)}%{{customdata[1]}}<br>%{{x:.5g}}, '
    f'round %{{customdata[0]}}<extra>{_name(name)}</extra>',
  )  # fmt: skip


def _draw(
  drawn: Mapping[str, pd.DataFrame], y: str, metric: curves_lib.Metric, labels: Iterable[str]
) -> tuple[graph_objects.Figure, list[dict[str, list[float]]]]:
  """A figure of curves by label, in the styles of `labels`, and the x values of its traces."""
  chosen = styles.of(labels)
  traces, places = [], []
  for label, curve in drawn.items():
    columns = ['middle', 'low', 'high']
    curve = curve.assign(**metric.shown(curve[columns]))
    places.append(_by_axis(curve))
    traces.append(_curve(label, curve, chosen[label], metric))
    if curve['low'].notna().any():
      places.append(_by_axis(pd.concat([curve, curve[::-1]])))
      alpha = styles.band_alpha(len(chosen))
      traces.append(_band(label, curve, chosen[label], alpha))
  return graph_objects.Figure(traces, layout(AXES['rounds'][0], y)), places


def means(
  runs: Mapping[str, Sequence[pd.DataFrame]],
  column: str,
  metric: curves_lib.Metric,
  budget: curves_lib.Budget | None = None,
) -> graph_objects.Figure:
  """Test accuracy against rounds, bytes or seconds, chosen by buttons.

  Args:
    runs: Label -> the curves of its runs, drawn as their mean with its 95 % interval.
    column: The accuracy column.
    metric: The metric in this column.
    budget: Where the runs are compared, marked by a line; its axis is shown first.
  """
  found = {label: curves_lib.mean_curve(curves, column) for label, curves in runs.items()}
  drawn = {label: curve for label, curve in found.items() if not curve.empty}
  kind = 'personal ' * (column == 'eval_personal_accuracy')
  figure, places = _draw(drawn, metric.title(f'{kind}test'), metric, runs)
  _add_axis_buttons(figure, places, budget)
  return make_room(figure)


def clients(
  runs: Mapping[str, Sequence[pd.DataFrame]], metric: curves_lib.Metric
) -> graph_objects.Figure:
  """The clients' accuracies by round: the median, and the area from 10 % to 90 %.

  Args:
    runs: Label -> the results of `curves.read_clients` for its runs, drawn together; may be empty.
    metric: The metric in the accuracy column.
  """
  found = {
    label: curves_lib.spread(pd.concat(group), 'accuracy') for label, group in runs.items() if group
  }
  figure, places = _draw(found, metric.title("clients'"), metric, runs)
  for trace, place in zip(figure.data, places, strict=True):
    trace.x = place['rounds']
  return make_room(figure)


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
  """Adds buttons that choose the x axis; `places` has the x values of each trace by axis."""
  first = budget.spent if budget else 'rounds'
  for trace, place in zip(figure.data, places, strict=True):
    trace.x = place[first]
  figure.update_layout(xaxis_title_text=AXES[first][0], shapes=_mark(budget, first))
  buttons = [
    dict(
      label=short,
      method='update',
      args=[
        {'x': [place[axis] for place in places]},
        {'xaxis.title.text': title, 'xaxis.autorange': True, 'shapes': _mark(budget, axis)},
      ],
    )
    for axis, (title, short) in AXES.items()
  ]
  menu = dict(type='buttons', direction='right', x=0, xanchor='left', y=1.02, yanchor='bottom',
              buttons=buttons, active=list(AXES).index(first), bgcolor='#ffffff',
              bordercolor='#c4c7cc', font_size=12, pad=dict(t=0, b=0))  # fmt: skip
  figure.update_layout(updatemenus=[menu])


def front(summary: pd.DataFrame, metric: curves_lib.Metric) -> graph_objects.Figure:
  """Mean final accuracy against mean total bytes, one point per method, and their Pareto front."""
  judged = table_lib.judged_by(summary)
  megabytes, values = summary['total_bytes'] / 1e6, metric.shown(summary[judged])
  width = metric.shown(summary[f'{judged}_ci95'])
  kind = 'personal ' * (judged != 'final_accuracy')
  figure = graph_objects.Figure(layout=layout(AXES['bytes'][0], metric.title(f'final {kind}test')))
  add_steps(figure, megabytes, values)
  chosen = styles.of(summary['method'])
  states = {'yes': '', 'open': '-open-dot', 'no': '-open'}
  for i, row in enumerate(summary.itertuples()):
    name, style = _name(row.method), chosen[row.method]
    figure.add_scatter(
      x=[megabytes.iloc[i]], y=[values.iloc[i]], name=name, mode='markers',
      marker=dict(size=11, color=style.color, symbol=style.symbol + states[row.pareto]),
      error_y=dict(array=[width.iloc[i]], thickness=1),
      error_x=dict(array=[row.total_bytes_ci95 / 1e6], thickness=1),
      hovertemplate=f'%{{y:.2f}}{as_text(metric.sign)} for %{{x:.5g}} MB<extra>{name}</extra>',
    )  # fmt: skip
  return make_room(figure)


def add_steps(figure: graph_objects.Figure, costs: pd.Series, values: pd.Series) -> None:
  """Adds the Pareto front as steps; uses a logarithmic axis if costs differ by a lot."""
  is_best = statistics.is_on_pareto_front(costs, values)
  order = costs[is_best].sort_values().index
  figure.add_scatter(
    x=costs[order], y=values[order], mode='lines', line=dict(shape='hv', dash='dash', width=1),
    line_color='#9aa0a6', name='Pareto front of the means', hoverinfo='skip',
  )  # fmt: skip
  if costs.max() > 10 * costs.min() > 0:
    figure.update_xaxes(type='log')


def by_round(metrics: pd.DataFrame, columns: Mapping[str, str], y: str) -> graph_objects.Figure:
  """Columns of metrics.csv by round; `columns` maps each to its name in the legend."""
  figure = graph_objects.Figure(layout=layout(AXES['rounds'][0], y))
  for (column, name), style in zip(columns.items(), styles.of(columns).values(), strict=True):
    rows = metrics.dropna(subset=column)
    sizes = _sizes(style, len(rows))
    figure.add_scatter(
      x=rows['round'], y=rows[column], name=_name(name), line=_line(style), mode='lines+markers',
      marker=dict(symbol=f'{style.symbol}-open', size=sizes, line_width=2),
    )  # fmt: skip
  figure.update_layout(yaxis_rangemode='tozero')
  return make_room(figure)
