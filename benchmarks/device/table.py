"""Converts the lines of `benchmarks.device.check` to a table in Markdown.

  python -m benchmarks.device.table FILE.jsonl...

Milliseconds per round. Those of the program are the sum over all programs of the round; `ratio` is
the batched program relative to the training by hand, batched, in float32. The worst difference is
that from the CPU's results, relative to their norm; the CPU's sensitivity is the change of its own
results if inputs change by a millionth.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import json
import pathlib
import sys
from typing import Any

_COLUMNS = (
  'case',
  'program',
  'with data',
  'with crossing',
  'by hand',
  'ratio',
  'program in turn',
  'by hand in turn',
  'by hand, grouped',
  'by hand, TF32',
  'by hand, bf16',
  'worst difference',
  "CPU's sensitivity",
  'repeats',
  'temporary MB (by hand)',
)

Line = dict[str, Any]


def _total(lines: Sequence[Line], key: str) -> float | None:
  """The sum over the programs of a round."""
  values = [line.get(key) for line in lines]
  if not values or None in values:
    return None
  return sum(v * line.get('num_calls', 1) for v, line in zip(values, lines, strict=True))


def _number(value: float | None, form: str = '.3g') -> str:
  return '' if value is None else format(value, form)


def rows(lines: Iterable[Line]) -> Iterator[str]:
  """The table's rows, then a list of what failed or was not run."""
  lines = list(lines)
  device = next((line for line in lines if 'device' in line), None)
  if device is not None:
    yield f'{device["device"]}, jax {device["jax"]}, deterministic: {device["deterministic"]}'
    yield ''
  yield f'| {" | ".join(_COLUMNS)} |'
  yield '|' + '---|' * len(_COLUMNS)
  measured = [line for line in lines if 'ms' in line]
  for case in dict.fromkeys(line['case'] for line in measured):
    yield f'| {" | ".join(_cells(case, [m for m in measured if m["case"] == case]))} |'
  for line in lines:
    for key in ('failed', 'skipped', 'not_exported', 'stopped'):
      if key in line:
        what = ' '.join(str(v) for k, v in line.items() if k != key)
        yield f'- {what}: {key.replace("_", " ")}: {line[key]}'


def _cells(case: str, lines: Sequence[Line]) -> Iterator[str]:
  def programs(mode: str) -> list[Line]:
    return [line for line in lines if line['part'] == 'program' and line['mode'] == mode]

  def hand(is_wanted: Callable[[Line], bool]) -> Line:
    found = (line for line in lines if line['part'] == 'hand' and is_wanted(line))
    return next(found, {})

  main = hand(
    lambda h: (
      h['mode'] == 'batched'
      and h['dtype'] == 'float32'
      and h['precision'] == 'highest'
      and h.get('convolutions') != 'grouped'
    )
  )
  batched, in_turn = programs('batched'), programs('in_turn')
  shown = batched or in_turn
  yield case
  for key in ('ms', 'ms_with_data', 'ms_with_crossing'):
    yield _number(_total(batched, key))
  yield _number(main.get('ms'))
  ms = _total(batched, 'ms')
  yield _number(ms / main['ms'] if ms is not None and main else None, '.2f')
  yield _number(_total(in_turn, 'ms'))
  yield _number(hand(lambda h: h['mode'] == 'in_turn').get('ms'))
  yield _number(
    hand(lambda h: h['mode'] == 'batched' and h.get('convolutions') == 'grouped').get('ms')
  )
  yield _number(hand(lambda h: h['dtype'] == 'float32' and h['precision'] == 'default').get('ms'))
  yield _number(hand(lambda h: h['dtype'] == 'bfloat16').get('ms'))
  yield _number(max((line['worst'] for line in shown), default=None), '.1e')
  yield _number(max((line['cpu_sensitivity'] for line in shown), default=None), '.1e')
  yield ', '.join('yes' if line['is_repeatable'] else 'NO' for line in shown)
  temporary = [_number(line['temporary_mb'], '.0f') for line in shown]
  yield f'{", ".join(temporary)} ({_number(main.get("temporary_mb"), ".0f")})'


def main(argv: Sequence[str]) -> None:
  for path in argv:
    lines = [json.loads(text) for text in pathlib.Path(path).read_text().splitlines()]
    print('\n'.join(rows(lines)))


if __name__ == '__main__':
  main(sys.argv[1:])
