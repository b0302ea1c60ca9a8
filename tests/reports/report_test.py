"""The reports, opened in a browser that has no network."""

import html
from html import parser
import json
import re
import shutil
import subprocess

import pytest

from tests.reports.run_folders import write_run
from tff_lowrank.reports import curves
from tff_lowrank.reports import report
from tff_lowrank.reports import styles
from tff_lowrank.simulation import network

HOSTILE = '<script>document.title="broken"</script><img src=x onerror=\'document.title="broken"\'>'
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')


@pytest.fixture(scope='module')
def browser():
  found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
  if found is None:
    pytest.skip(f'none of {", ".join(BROWSERS)} is on the PATH')
  return found


def opened(browser, page, profile, *options):
  """The document of a page after its scripts have run, without a network."""
  done = subprocess.run(
    [
      browser, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync',
      f'--user-data-dir={profile}', '--host-resolver-rules=MAP * ~NOTFOUND',
      '--virtual-time-budget=10000', '--dump-dom', *options, page.as_uri(),
    ],
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return done.stdout


# Says how wide the document in a frame and the texts of its legends are.
MEASURE = """
<iframe id="frame" src="{page}" style="border:0; width:{width}px; height:9000px"></iframe>
<script>
addEventListener('load', () => setTimeout(() => {{
  const inside = frame.contentDocument;
  const texts = [...inside.querySelectorAll('.legendtext')].map(x => x.getBoundingClientRect());
  const plots = [...inside.querySelectorAll('.plot')].map(x => x.getBoundingClientRect());
  const legends = [...inside.querySelectorAll('g.legend')].map(x => x.getBoundingClientRect());
  document.title = JSON.stringify({{
    document: inside.documentElement.scrollWidth,
    texts: Math.max(...texts.map(x => x.right)),
    drawn: Math.min(...[...inside.querySelectorAll('.bglayer .bg, .plotbg, .nsewdrag')]
      .map(x => x.getBoundingClientRect().width)),
    below: Math.max(...legends.map((x, i) => x.bottom - plots[i].bottom)),
    legends: texts.length,
  }});
}}, 3000));
</script>"""


class Tags(parser.HTMLParser):
  """Notes the tags of a page, and which attributes they have."""

  def __init__(self):
    super().__init__()
    self.seen = set()

  def handle_starttag(self, tag, attrs):
    self.seen |= {tag, *(name for name, _ in attrs)}


def without_data(text):
  """A page without what its scripts and figures' data say."""
  return re.sub(r'<script.*?</script>', '', text, flags=re.DOTALL)


def comparison(tmp_path):
  runs = [
    ('fed_avg', write_run(tmp_path / 'f1', 1, 1000, 3000, [0.5, 0.7], lbgm_threshold=None)),
    ('fed_avg', write_run(tmp_path / 'f2', 2, 1000, 3000, [0.4, 0.6], lbgm_threshold=None)),
    (HOSTILE, write_run(tmp_path / 'h', 1, 10, 3000, [0.4, 0.6], personal=0.8, data_dir=HOSTILE)),
  ]
  path = tmp_path / report.FILE
  return report.write_comparison(runs, path, network.Network(), curves.Budget('bytes', 20_000))


def assert_needs_no_other_file(text):
  tags = Tags()
  tags.feed(text)
  assert {'script', 'table', 'content'} <= tags.seen
  assert not tags.seen & {
    'src',
    'href',
    'srcset',
    'action',
    'data',
    'link',
    'img',
    'iframe',
    'base',
  }
  assert not re.search(r'url\(|@import|https?:', without_data(text))
  assert "default-src 'none'" in text


def test_comparison_in_a_browser(tmp_path, browser):
  path = comparison(tmp_path)
  assert_needs_no_other_file(path.read_text())
  seen = opened(browser, path, tmp_path / 'profile')
  assert '<title>Comparison</title>' in seen  # No injected script ran.
  # The mean and band of fed_avg, and the other's mean; its personal accuracy; a point each, and the
  # front.
  first, personal, front = seen.split('<div class="plot">')[1:]
  assert first.count('<g class="trace scatter') == 3
  assert personal.count('<g class="trace scatter') == 1
  assert front.count('<g class="trace scatter') == 3
  for plot in (first, front):
    assert plot.count('class="main-svg"') >= 2
    assert 'Uplink + downlink (MB)' in plot
    assert re.search(r'<path class="point', plot)
  assert 'Test accuracy (%)' in first and 'Personal test accuracy (%)' in personal
  # As text: in the legend by plotly, in tables and flags by the page.
  legend = re.findall(r'<text class="legendtext"[^>]*>(.*?)</text>', first)
  shown = [html.unescape(re.sub('<.*?>', '', name)) for name in legend]
  assert shown == ['fed_avg', ''.join(line for line in styles.wrapped(HOSTILE, 38))]
  assert '<img' not in seen and '<script>document' not in seen
  cells = [html.unescape(cell.replace('<wbr>', '')) for cell in re.findall('<td>(.*?)</td>', seen)]
  assert cells.count(HOSTILE) == 2  # Methods and runs.
  assert sum(cell.endswith(f'data_dir={HOSTILE}') for cell in cells) == 1  # The flags of this run.


def test_comparison_says_all_that_is_known(tmp_path):
  text = without_data(comparison(tmp_path).read_text()).replace('<wbr>', '')
  for known in (
    'compared at 0.02 MB', '3 Mbit/s uplink', '0.6500 ± 0.6353', '0123abc', '/device:CPU:0', 'seed',
    '2 methods, 2 seeds, 3 runs', 'Pareto front of accuracy against bytes: a method is compared',
  ):  # fmt: skip
    assert known in text, known


def test_data_cannot_end_its_script(tmp_path):
  text = comparison(tmp_path).read_text()
  blocks = re.findall(r'<script type="application/json">(.*?)</script>', text, flags=re.DOTALL)
  names = [trace.get('name') for block in blocks for trace in json.loads(block)['data']]
  escaped = '<br>'.join(html.escape(x, quote=False) for x in styles.wrapped(HOSTILE, 38))
  assert names.count(escaped) == 3
  assert len(blocks) == 3 and not any('<' in block for block in blocks)


def test_a_run_in_a_browser(tmp_path, browser):
  run = write_run(tmp_path / 'run', 1, 1000, 3000, [0.5, None, 0.7])
  path = report.write_run(run, HOSTILE)
  assert_needs_no_other_file(path.read_text())
  seen = opened(browser, path, tmp_path / 'profile')
  assert f'<title>{html.escape(HOSTILE, quote=False)}</title>' in seen
  plots = seen.split('<div class="plot">')[1:]
  assert [plot.count('<g class="trace scatter') for plot in plots] == [1, 2, 2]
  assert '<td>0.7000</td>' in seen


def test_curves_are_means_with_intervals(tmp_path):
  text = comparison(tmp_path).read_text()
  block = re.search(r'<script type="application/json">(.*?)</script>', text, flags=re.DOTALL)
  drawn = json.loads(block.group(1))
  by_axis = [button['args'][0]['x'][0] for button in drawn['layout']['updatemenus'][0]['buttons']]
  # fed_avg: rounds; 4 clients' worth of 4,000 bytes a round; b's 9,000 and 3,000 bytes at 9 and
  # 3 Mbit/s.
  assert by_axis == [[1, 2], pytest.approx([0.016, 0.032]), pytest.approx([0.016, 0.032])]


@pytest.mark.parametrize('width', [400, 1280])
def test_thirteen_methods_of_long_names_fit_a_page(tmp_path, browser, width):
  runs = []
  for i in range(13):
    label = f'fed_avg:uplink=error_feedback(top_k(0.{i}1,qsgd(7))):client_learning_rate=0.{i}'
    for seed in (1, 2):
      accuracies = [0.1 * seed, 0.02 * i + 0.3 * seed]
      run = write_run(tmp_path / f'{i}-{seed}', seed, 1000 + i, 3000, accuracies, clients=[[0.5]])
      runs.append((label, run))
  page = tmp_path / report.FILE
  report.write_comparison(runs, page, network.Network(), curves.Budget('rounds', 2))
  frame = tmp_path / 'frame.html'
  frame.write_text(MEASURE.format(page=page.as_uri(), width=width))
  options = ('--allow-file-access-from-files', '--window-size=1400,1000')
  seen = opened(browser, frame, tmp_path / 'profile', *options)
  found = json.loads(html.unescape(re.search('<title>(.*?)</title>', seen).group(1)))
  assert found['document'] <= width and found['texts'] <= width
  assert found['legends'] == 13 + 14 + 13  # The front is one more.
  assert found['drawn'] > width / 2
  assert found['below'] <= 0
