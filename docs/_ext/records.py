"""Tables of what the package itself has records of: methods, settings, codecs, tasks."""

import inspect

from docutils import nodes
from docutils.parsers import rst

from tff_lowrank import methods
from tff_lowrank import runs
from tff_lowrank import settings
from tff_lowrank.codecs import grammar
from tff_lowrank.datasets import catalog

Row = tuple[str, ...]


def method_rows() -> list[Row]:
  """A row a method: name, what it is, source, its own flags, codecs."""
  rows = []
  for record in methods.METHODS.values():
    ways = (('up', record.takes_uplink), ('down', record.takes_downlink))
    taken = ' and '.join(way for way, is_taken in ways if is_taken) or 'none'
    flags = ', '.join(f'`--{name}`' for name in record.setting_names)
    rows.append((f'`{record.name}`', record.about, record.source, flags, taken))
  return rows


def _setting_rows(cls: type, group: str | None = None) -> list[Row]:
  return [
    (f'`{name}`', f'`{setting.default}`', setting.about)
    for name, setting in settings.of(cls).items()
    if group is None or setting.group == group
  ]


def own_setting_rows() -> list[Row]:
  """The settings that belong to methods, each once."""
  rows = dict.fromkeys(
    row for record in methods.METHODS.values() for row in _setting_rows(record.settings)
  )
  return [*rows]


def codec_rows() -> list[Row]:
  """A row a codec: its text, and the first line of its docstring."""
  return [
    (f'`{name}`', f'`{kind.__name__}`', inspect.getdoc(kind).split('\n')[0])
    for name, kind in grammar.CODECS.items()
  ]


def data_set_rows() -> list[Row]:
  """A row a data set: name, what it is, its own clients, sizes, licence, tasks."""
  return [
    (f'`{name}`', d.about, d.clients, d.sizes, d.licence, ', '.join(f'`{t}`' for t in d.tasks))
    for name, d in catalog.DATA_SETS.items()
  ]


_SETTINGS = (('setting', 5), ('default', 3), ('meaning', 10))

# Name -> the heads of the columns with their widths, and what gives the rows.
TABLES = {
  'methods': (
    (('method', 4), ('what it is', 6), ('source', 6), ('its own flags', 7), ('codecs', 2)),
    method_rows,
  ),
  'run-settings': (_SETTINGS, lambda: _setting_rows(runs.RunSpec)),
  'saving-settings': (_SETTINGS, lambda: _setting_rows(runs.Saving)),
  'method-settings': (_SETTINGS, own_setting_rows),
  'data-sets': (
    (
      ('data set', 4),
      ('what it is', 5),
      ('clients of its own', 3),
      ('examples', 3),
      ('licence', 3),
      ('tasks', 5),
    ),
    data_set_rows,
  ),
  'codecs': ((('text', 3), ('class', 3), ('what it sends', 10)), codec_rows),
}


def _cell(text: str) -> nodes.entry:
  """A table's cell, with code in backticks."""
  paragraph = nodes.paragraph()
  for i, part in enumerate(text.replace('``', '`').split('`')):
    paragraph += nodes.literal(part, part) if i % 2 else nodes.Text(part)
  return nodes.entry('', paragraph)


class Records(rst.Directive):
  """The table that the argument names."""

  required_arguments = 1

  def run(self) -> list[nodes.Node]:
    heads, rows = TABLES[self.arguments[0]]
    group = nodes.tgroup(cols=len(heads))
    group += [nodes.colspec(colwidth=width) for _, width in heads]
    group += nodes.thead('', nodes.row('', *(_cell(head) for head, _ in heads)))
    group += nodes.tbody('', *(nodes.row('', *map(_cell, row)) for row in rows()))
    return [nodes.table('', group, classes=['colwidths-given'])]


def setup(app):
  app.add_directive('records', Records)
  return dict(parallel_read_safe=True)
