import pandas as pd
import pytest

from tff_lowrank.reports import advice_table
from tff_lowrank.reports import curves

LAYERS = pd.DataFrame(
  [dict(tensor=0, shape='2x2', n95=1, n99=2, consecutive_overlap=None, effective_perturbation=0.5,
        rank95=1.5)]
)  # fmt: skip


def advice(measured=()):
  """FedAvg's row and two settings, of which the first is suggested."""
  rows = [dict(method='fed_avg', setting='', measured_accuracy=0.9, suggested=False)]
  for i, setting in enumerate(('a=1', 'a=2')):
    saved = dict(uplink_saved=0.5, total_saved=0.25, late_total_saved=0.2, error=0.01 * i)
    rows.append(dict(method='m', setting=setting, **saved, suggested=i == 0))
    if measured:
      saved = dict(measured_uplink_saved=0.5, measured_total_saved=0.25)
      rows[-1] |= dict(saved, measured_accuracy=measured[i])
  return pd.DataFrame(rows)


def test_what_was_not_measured_is_said():
  text = advice_table.to_markdown(advice(), LAYERS, 0.02)
  assert (
    '| m | `a=1` | 50.0 % | 25.0 % | 20.0 % | 0.000 |  | suggested; accuracy not measured' in text
  )
  assert 'The loss of accuracy is not predicted. It was not measured either' in text
  assert '| 0 | 2x2 | 1 | 2 |  | 0.500 | 1.5 |' in text


@pytest.mark.parametrize('bad', [0.8, None])
def test_what_was_measured_to_be_harmful_is_said(bad):
  metric = curves.Metric('recall at 5')
  text = advice_table.to_markdown(advice((0.89, bad)), LAYERS, 0.02, metric)
  first, second = (line for line in text.splitlines() if line.startswith('| m |'))
  assert first.endswith('| 0.8900 | suggested |')
  assert second.endswith('| loses too much recall at 5 |')
  assert "Settings whose recall at 5 is below FedAvg's by more than 0.02" in text
  assert text.splitlines()[0].endswith('| measured total saved | recall at 5 |  |')
