import json
import re

import pandas as pd
import pytest

from tff_lowrank.reports import curves
from tff_lowrank.reports import plots
from tff_lowrank.reports import trial_plots

TRIALS = pd.DataFrame(
  dict(
    trial=range(4), state=['complete', 'fail', 'complete', 'complete'],
    rate=[0.1, 1 / 3, 0.2, 0.3], codec=['a', '<b>', 'c', 'd'],
    final_accuracy=[0.5, None, 0.4, 0.9], total_bytes=[1e6, None, 2e6, 3e6],
    reason=[None, 'Too large.', None, None], is_best=[True, False, False, True],
  )
)  # fmt: skip


def test_trials_and_their_front(tmp_path, monkeypatch):
  kept, save = [], plots.save
  monkeypatch.setattr(plots, 'save', lambda figure, path: kept.append(figure) or save(figure, path))
  drawn = trial_plots.plot_search(TRIALS, tmp_path, curves.Metric(), 'lbgm.')
  assert [path.name for path in drawn] == ['trials.png', 'report.html']
  left, right = kept[0].axes
  others, best, front = left.lines
  assert (list(others.get_xdata()), list(others.get_ydata())) == ([2], [40])
  assert (list(best.get_xdata()), list(best.get_ydata())) == ([1, 3], [50, 90])
  assert list(front.get_xdata()) == [1, 3]
  assert list(right.lines[2].get_ydata()) == [50, 50, 90]  # The best so far.
  text = drawn[1].read_text()
  assert 'lbgm. 4 trials: 3 complete, 1 failed.' in text
  assert 'Too large.' in text and '<td>0.333333</td>' in text and '<td>&lt;b&gt;</td>' in text
  block, _ = re.findall(r'<script type="application/json">(.*?)</script>', text, flags=re.DOTALL)
  points = json.loads(block)['data'][1]
  assert points['x'] == [1, 3] and points['customdata'][1] == [
    'trial 3: 90 %, 3 MB<br>rate=0.3<br>codec=d'
  ]


@pytest.mark.parametrize('rows', [slice(1, 2), slice(0, 1)])
def test_few_trials_or_failed_ones(tmp_path, rows):
  drawn = trial_plots.plot_search(
    TRIALS[rows].reset_index(drop=True), tmp_path, curves.Metric('R squared', ''), 'x.'
  )
  assert all(path.exists() for path in drawn)
  assert 'Final R squared against total bytes' in drawn[1].read_text()
