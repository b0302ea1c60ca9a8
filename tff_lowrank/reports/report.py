"""The content of report.html, for one run and for a comparison. Reads only run folders."""

from collections.abc import Iterator, Mapping, Sequence
import pathlib
from typing import Any

import pandas as pd

from tff_lowrank.reports import client_plots
from tff_lowrank.reports import curves as curves_lib
from tff_lowrank.reports import figures
from tff_lowrank.reports import page
from tff_lowrank.reports import plots
from tff_lowrank.reports import table as table_lib
from tff_lowrank.simulation import network as network_lib

FILE = 'report.html'

_ACCURACIES = {'eval_accuracy': 'Test', 'eval_personal_accuracy': 'Personal test'}


def _about_network(network: network_lib.Network) -> str:
  return (
    f'Simulated time is the transfer time of the messages at {network.downlink_mbps:g} Mbit/s '
    f'downlink, {network.uplink_mbps:g} Mbit/s uplink and {1000 * network.latency_seconds:g} ms '
    'latency per client, without computation. The slowest client decides the time of a round. '
    '1 MB is 10^6 bytes.'
  )


def _provenance(record: Mapping[str, Any]) -> dict[str, Any]:
  git = record.get('git', {})
  facts = dict(commit=git.get('commit'), uncommitted_changes=git.get('dirty'))
  facts |= {'devices': ', '.join(record.get('devices', ())), 'started': record.get('started')}
  return {**record.get('versions', {}), **facts}


def _facts(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """Tables of named facts: first those that all runs share, then the others by run."""
  texts = {
    run: {name: str(value) for name, value in own.items() if value is not None}
    for run, own in facts.items()
  }
  first, *others = texts.values()
  shared = {n: v for n, v in first.items() if all(own.get(n) == v for own in others)}
  parts = [page.table(pd.DataFrame(shared.items(), columns=['name', 'value']), is_words=True)]
  differing = {
    run: ', '.join(f'{name}={value}' for name, value in own.items() if name not in shared)
    for run, own in texts.items()
  }
  if any(differing.values()):
    rows = pd.DataFrame(differing.items(), columns=['run', 'only this run'])
    parts.append(page.table(rows, is_words=True))
  return parts


def _settings(runs: Mapping[str, pathlib.Path]) -> list[str]:
  records = {name: curves_lib.read_record(folder) for name, folder in runs.items()}
  return [
    page.heading('Flags'),
    *_facts({name: record['flags'] for name, record in records.items()}),
    page.heading('Versions'),
    *_facts({name: _provenance(record) for name, record in records.items()}),
  ]


def _accuracies(
  curves: Mapping[str, Sequence[pd.DataFrame]],
  metric: curves_lib.Metric,
  budget: curves_lib.Budget | None = None,
) -> Iterator[str]:
  """A heading and a figure for each accuracy in the curves."""
  for column, kind in _ACCURACIES.items():
    if any(curve[column].notna().any() for group in curves.values() for curve in group):
      yield page.heading(f'{kind} {metric.name}')
      yield page.figure(figures.means(curves, column, metric, budget))


def _clients(runs: curves_lib.Runs, metric: curves_lib.Metric) -> Iterator[str]:
  """A section on the differences between clients, if a run measured them."""
  clients = plots.by_label(runs, curves_lib.read_clients)
  if any(clients.values()):
    yield page.heading('Clients')
    yield page.paragraph(f'{client_plots.ABOUT}. All seeds together.')
    yield page.figure(figures.clients(clients, metric))


def _run_facts(curve: pd.DataFrame, metric: curves_lib.Metric) -> pd.DataFrame:
  """The final values of a run, one per row."""
  last = curve.ffill().iloc[-1]
  facts = {
    'rounds': f'{last["rounds"]:.0f}',
    f'test {metric.name}': f'{last["eval_accuracy"]:.4f}',
    'uplink': f'{last["cumulative_uplink_bytes"] / 1e6:.3f} MB',
    'downlink': f'{last["cumulative_downlink_bytes"] / 1e6:.3f} MB',
    'simulated time': f'{last["seconds"]:.1f} s',
    'measured time': f'{curve["round_seconds"].sum():.1f} s',
  }
  if pd.notna(last['eval_personal_accuracy']):
    facts[f'personal test {metric.name}'] = f'{last["eval_personal_accuracy"]:.4f}'
  return pd.DataFrame({'': list(facts), 'after the last round': list(facts.values())})


def write_run(run: pathlib.Path, label: str) -> pathlib.Path:
  """Writes the report of a run into its folder, and returns its path."""
  network = network_lib.Network()
  curve, metric = curves_lib.read_curve(run, network), curves_lib.metric([run])
  directions = ('uplink', 'downlink')
  curve = curve.assign(**{d: curve[f'{d}_bytes'] / 1e6 for d in directions})
  losses = {name: name.replace('_', ' ') for name in ('train_loss', 'eval_loss')}
  fractions = {name: name.replace('_', ' ') for name in curve if name.endswith('_fraction')}
  parts = [
    page.paragraph(_about_network(network)),
    page.table(_run_facts(curve, metric)),
    *_accuracies({label: [curve]}, metric),
    *_clients([(label, run)], metric),
    page.heading('Loss'),
    page.figure(figures.by_round(curve, losses, 'Loss')),
    page.heading('Bytes of each round, sum over clients'),
    page.figure(figures.by_round(curve, {d: d for d in directions}, 'Bytes (MB)')),
  ]
  if fractions:
    parts += [
      page.heading('Fraction of parameters or blocks not sent in full'),
      page.figure(figures.by_round(curve, fractions, 'Fraction')),
    ]
  page.write(run / FILE, label, [*parts, *_settings({label: run})])
  return run / FILE


def write_comparison(
  runs: curves_lib.Runs,
  path: pathlib.Path,
  network: network_lib.Network,
  budget: curves_lib.Budget,
) -> pathlib.Path:
  """Writes the report of labelled run folders to `path`, and returns it.

  Args:
    runs: Pairs of a method's label and a run folder, one per seed.
    path: The file to write.
    network: The network for the simulated time.
    budget: The budget at which runs are compared.
  """
  table = table_lib.build_table(runs, network, budget)
  summary = table_lib.build_summary(table)
  by_method = plots.by_label(runs, lambda run: curves_lib.read_curve(run, network))
  metric = curves_lib.metric(folder for _, folder in runs)
  seeds = table['seed'].nunique()
  parts = [
    page.paragraph(
      f'{summary.shape[0]} methods, {seeds} {"seed" if seeds == 1 else "seeds"}, {len(runs)} runs. '
      f'Runs are compared at {budget}, each by its last evaluation within this budget. '
      "± and shaded areas are 95 % intervals of the mean over seeds, by Student's t. A method has "
      'the same colour, marker and dashes in all plots, also in those in the folder plots.'
    ),
    page.paragraph(_about_network(network)),
    page.heading('Methods, means over seeds'),
    page.table(table_lib.shown(summary, budget, metric)),
    page.paragraph(table_lib.pareto_rule(metric)),
    *_accuracies(by_method, metric, budget),
    page.heading(f'Final {metric.name} against total bytes'),
    page.paragraph(
      'Filled: on the Pareto front; with a dot: undecided ("open" in the table); hollow: not on it.'
    ),
    page.figure(figures.front(summary, metric)),
    *_clients(runs, metric),
    page.heading('Runs'),
    page.table(table_lib.shown(table, budget, metric)),
  ]
  page.write(path, 'Comparison', [*parts, *_settings(curves_lib.named(runs))])
  return path
