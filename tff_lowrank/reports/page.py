"""A self-contained web page: it needs no network and no other file."""

import base64
from collections.abc import Iterable
import hashlib
import html
import pathlib

import pandas as pd
from plotly import graph_objects
from plotly import offline

from tff_lowrank.reports import styles
from tff_lowrank.simulation import file_operations

_DRAW = """
for (const place of document.querySelectorAll('.plot')) {
  const figure = JSON.parse(place.querySelector('script').textContent);
  // By default, a button would offer to send the data to plotly's maker.
  const options = {
    displaylogo: false, responsive: true, showSendToCloud: false, plotlyServerURL: '',
  };
  Plotly.newPlot(place.querySelector('div'), figure.data, figure.layout, options);
}
"""

_STYLE = """
body { margin: 1.5rem auto; max-width: 80rem; padding: 0 1rem; background: #fff; color: #202124;
       font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
p { margin: .4rem 0; max-width: 60rem; color: #3c4043; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .4rem 0 1.2rem; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .55rem; border-bottom: 1px solid #e6e8eb; text-align: right; }
th { border-bottom: 2px solid #9aa0a6; font-weight: 600; vertical-align: bottom; }
td { white-space: nowrap; }
td:first-child { white-space: normal; }
th:first-child, td:first-child, .words th, .words td { text-align: left; }
.words td { white-space: normal; overflow-wrap: anywhere; max-width: 60rem; min-width: 6rem; }
tbody tr:hover { background: #f6f8fa; }
"""


def paragraph(text: str) -> str:
  return f'<p>{html.escape(text)}</p>'


def heading(text: str) -> str:
  return f'<h2>{html.escape(text)}</h2>'


def _breakable(text: str) -> str:
  """`text` with places where a narrow column may break the line."""
  return '<wbr>'.join(map(html.escape, styles.pieces(text)))


def table(texts: pd.DataFrame, is_words: bool = False) -> str:
  """A table of texts: the first column, or with `is_words` every column, is left-aligned."""

  def row(cells: Iterable[object], tag: str) -> str:
    texts = [
      html.escape(str(cell)) if i and not is_words else _breakable(str(cell))
      for i, cell in enumerate(cells)
    ]
    return f'<tr>{"".join(f"<{tag}>{text}</{tag}>" for text in texts)}</tr>'

  rows = '\n'.join(row(cells, 'td') for cells in texts.itertuples(index=False))
  return (
    f'<div class="wide"><table{" class=words" if is_words else ""}><thead>{row(texts, "th")}'
    f'</thead>\n<tbody>\n{rows}\n</tbody></table></div>'
  )


def figure(drawn: graph_objects.Figure) -> str:
  """A figure, whose texts must be escaped already: plotly interprets some tags."""
  data = drawn.to_json().replace('<', '\\u003c')
  return f'<div class="plot"><script type="application/json">{data}</script><div></div></div>'


def _policy(scripts: Iterable[str]) -> str:
  """A content security policy: only these scripts may run, and nothing may be loaded."""
  digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
  allowed = ' '.join(f"'sha256-{digest}'" for digest in digests)
  return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}"


def write(path: pathlib.Path, title: str, parts: Iterable[str]) -> None:
  """Writes a page of `parts`, made by the functions above; atomic, raises OSError if it fails."""
  scripts = [offline.get_plotlyjs(), _DRAW]
  title, newline = html.escape(title), '\n'
  text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{newline.join(parts)}
{newline.join(f'<script>{script}</script>' for script in scripts)}
</body>
</html>
"""
  file_operations.replace(path, text.encode(errors='replace'))
