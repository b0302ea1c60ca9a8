"""The result of a run, in one sentence. Reads only run folders."""

import pathlib

import pandas as pd

from tff_lowrank.reports import curves


def sentence(run: pathlib.Path) -> str:
  """Rounds, last accuracies and bytes of the run in a folder, and the path of the report."""
  record, metrics = curves.read_record(run), curves.read_metrics(run)
  facts = []
  metric = curves.metric([run]).name
  for column, name in (
    ('eval_accuracy', metric),
    ('eval_personal_accuracy', f'personal {metric}'),
  ):
    last = curves.last(metrics[column])
    if pd.notna(last):
      facts.append(f'{name} {last:.4f}')
  row = metrics.iloc[-1]
  up, down = (row[f'cumulative_{way}_bytes'] / 1e6 for way in ('uplink', 'downlink'))
  ended = record.get('ended_early')
  rounds = f'{len(metrics)} rounds' + (f' (stopped early: {ended})' if ended else '')
  facts += [f'{up:.3f} MB uplink', f'{down:.3f} MB downlink']
  return f'{rounds}: {", ".join(facts)}. All files are in {run}; open {run / "report.html"}'
