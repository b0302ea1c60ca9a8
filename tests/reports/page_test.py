import html
import re

import pandas as pd
from plotly import graph_objects

from tff_lowrank.reports import page


def test_texts_are_escaped():
  assert page.paragraph('<a & b>') == '<p>&lt;a &amp; b&gt;</p>'
  assert page.heading('<h>') == '<h2>&lt;h&gt;</h2>'


def test_cells_say_what_they_hold_and_labels_may_break():
  texts = pd.DataFrame({'m': ['a:b=<c>'], 'value': ['0.5 ± 0.1']})
  made = page.table(texts)
  assert '<td>a:<wbr>b=<wbr>&lt;c&gt;</td>' in made
  assert '<td>0.5 ± 0.1</td>' in made  # In one line.
  cells = re.findall('<td>(.*?)</td>', page.table(texts, is_words=True))
  assert [html.unescape(cell.replace('<wbr>', '')) for cell in cells] == ['a:b=<c>', '0.5 ± 0.1']


def test_a_page_allows_its_own_scripts_only(tmp_path):
  figure = graph_objects.Figure(layout=dict(title_text='</script><b>'))
  page.write(tmp_path / 'x.html', 'A & B', [page.figure(figure)])
  text = (tmp_path / 'x.html').read_text()
  assert '<title>A &amp; B</title>' in text and '</script><b>' not in text
  assert len(re.findall(r"'sha256-[^']+'", text)) == 2
  assert 'width=device-width' in text
