"""The trials of a search and their Pareto front: a plot, and a web page."""

import pathlib

import pandas as pd
from plotly import graph_objects

from tff_lowrank.reports import curves
from tff_lowrank.reports import figures
from tff_lowrank.reports import page
from tff_lowrank.reports import plots
from tff_lowrank.reports import styles

ABOUT = 'Filled: the best trials, by means over seeds, without intervals'
_TRIAL, _BEST = styles.COLORS[:2]
_RESULTS = ('final_accuracy', 'total_bytes')


def _complete(trials: pd.DataFrame, metric: curves.Metric) -> pd.DataFrame:
  """Trials with results: `trial`, `value`, `megabytes`, `is_best`, and `best` (so far)."""
  found = trials.astype(dict.fromkeys(_RESULTS, float)).dropna(subset=_RESULTS)
  value = metric.shown(found['final_accuracy'])
  return found.assign(value=value, megabytes=found['total_bytes'] / 1e6, best=value.cummax())


def plot(trials: pd.DataFrame, path: pathlib.Path, metric: curves.Metric) -> pathlib.Path:
  """Plots trials by total bytes and by number to the PNG file `path`, and returns it.

  Args:
    trials: One row per trial, with `trial`, `final_accuracy`, `total_bytes` (both None if the
      trial did not finish) and `is_best`.
    path: The file to write.
    metric: The metric in the accuracy column.
  """
  found = _complete(trials, metric)
  figure, (left, right) = plots.subplots(1, 2, figsize=(10, 4.5), sharey=True)
  for axes, column in ((left, 'megabytes'), (right, 'trial')):
    for is_best, color, fill in ((False, _TRIAL, 'none'), (True, _BEST, 'full')):
      rows = found[found['is_best'] == is_best]
      axes.plot(rows[column], rows['value'], 'o', color=color, fillstyle=fill)
    axes.grid(alpha=0.3)
  if len(found):
    plots.draw_steps(left, found['megabytes'], found['value'])
  for row in found[found['is_best']].itertuples():
    place = (row.megabytes, row.value)
    left.annotate(str(row.trial), place, xytext=(4, 4), textcoords='offset points')
  right.step(found['trial'], found['best'], where='post', color='grey', ls='--', lw=1, zorder=0)
  left.set_xlabel(plots.AXES['vs_bytes'][1])
  left.set_ylabel(plots.as_text(metric.title('final test')))
  right.set_xlabel('Trial (dashed: best so far)')
  plots.mark_whole_numbers(right.xaxis)
  figure.suptitle(ABOUT, fontsize='small')
  return plots.save(figure, path)


def _figure(found: pd.DataFrame, x: str, title: str, y: str) -> graph_objects.Figure:
  """Trials with results, against a column; their settings are the hover text."""
  figure = graph_objects.Figure(layout=figures.layout(title, y))
  for is_best, color, symbol in ((False, _TRIAL, 'circle-open'), (True, _BEST, 'circle')):
    rows = found[found['is_best'] == is_best]
    figure.add_scatter(
      x=rows[x].tolist(), y=rows['value'].tolist(), mode='markers',
      name='best' if is_best else 'other trials',
      marker=dict(color=color, symbol=symbol, size=10), customdata=rows[['text']].values.tolist(),
      hovertemplate='%{customdata[0]}<extra></extra>',
    )  # fmt: skip
  return figure


def _parameters(trials: pd.DataFrame) -> list[str]:
  """The columns of the flags that were searched over."""
  return [c for c in trials if c not in ('trial', 'state', 'reason', 'is_best', *_RESULTS)]


def _shown(trials: pd.DataFrame, metric: curves.Metric) -> pd.DataFrame:
  """The table of trials as text."""
  numbers = trials.astype(dict.fromkeys(_RESULTS, float))
  forms = {'final_accuracy': '{:.4f}', 'total_bytes': '{:.3f}'}
  texts = numbers.assign(total_bytes=numbers['total_bytes'] / 1e6)
  for name, form in forms.items():
    texts[name] = texts[name].map(form.format, na_action='ignore')
  for name in _parameters(trials):
    texts[name] = [f'{x:.6g}' if isinstance(x, float) else x for x in texts[name]]
  texts = texts.assign(best=texts['is_best'].map({True: 'yes', False: ''})).drop(columns='is_best')
  names = {'final_accuracy': metric.name, 'total_bytes': 'total MB'}
  return texts.astype(object).where(texts.notna(), '').rename(columns=names)


def write_page(
  trials: pd.DataFrame, path: pathlib.Path, metric: curves.Metric, about: str
) -> pathlib.Path:
  """Writes the web page of a search to `path`, and returns it; see `plot`.

  Args:
    trials: As for `plot`, with a column for each flag that was searched over, `state` and `reason`.
    path: The file to write.
    metric: The metric in the accuracy column.
    about: A sentence about the search.
  """
  found = _complete(trials, metric)
  names = _parameters(trials)
  found['text'] = [
    '<br>'.join(
      [f'trial {row["trial"]}: {row["value"]:.4g}{metric.sign}, {row["megabytes"]:.4g} MB']
      + [figures.as_text(f'{name}={row[name]}') for name in names]
    )
    for _, row in found.iterrows()
  ]
  y = metric.title('final test')
  by_bytes = _figure(found, 'megabytes', figures.AXES['bytes'][0], y)
  if len(found):
    figures.add_steps(by_bytes, found['megabytes'], found['value'])
  by_trial = _figure(found, 'trial', 'Trial', y).update_xaxes(rangemode='normal')
  by_trial.add_scatter(
    x=found['trial'], y=found['best'], mode='lines', line=dict(shape='hv', dash='dash', width=1),
    line_color='#9aa0a6', name='best so far', hoverinfo='skip',
  )  # fmt: skip
  states = trials['state'].replace('fail', 'failed').value_counts()
  counts = ', '.join(f'{n} {state}' for state, n in states.items())
  parts = [
    page.paragraph(f'{about} {len(trials)} trials: {counts}. {ABOUT}.'),
    page.heading(f'Final {metric.name} against total bytes'),
    page.figure(figures.make_room(by_bytes)),
    page.heading(f'Final {metric.name} by trial'),
    page.figure(figures.make_room(by_trial)),
    page.heading('Best trials'),
    page.table(_shown(trials[trials['is_best']].sort_values('total_bytes'), metric)),
    page.heading('All trials'),
    page.table(_shown(trials, metric)),
  ]
  page.write(path, 'Search', parts)
  return path


def plot_search(
  trials: pd.DataFrame, folder: pathlib.Path, metric: curves.Metric, about: str
) -> list[pathlib.Path]:
  """Writes plots/trials.png and report.html into `folder`, and returns them."""
  return [
    plot(trials, folder / 'plots' / 'trials.png', metric),
    write_page(trials, folder / 'report.html', metric, about),
  ]
