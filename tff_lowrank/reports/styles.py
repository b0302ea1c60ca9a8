"""Styles of labels: each looks the same in every plot of a comparison, PNG or web page."""

from collections.abc import Iterable
import re
import textwrap
from typing import NamedTuple

# Okabe and Ito's colours without yellow: distinguishable with common kinds of colour blindness.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#000000', '#E69F00', '#56B4E9')
# Names of markers in matplotlib and plotly.
MARKERS = {
  'o': 'circle',
  's': 'square',
  '^': 'triangle-up',
  'D': 'diamond',
  'v': 'triangle-down',
  'P': 'cross',
  'X': 'x',
  '*': 'star',
  'p': 'pentagon',
}
# Lengths of dashes and of the gaps after them, in line widths.
_DASHES = ((5, 3), (2, 2), (9, 3), (3, 4))
# Each dash pattern starts at this many positions, a third of it apart.
_PHASES = 3
_MARKS = 8


class Style(NamedTuple):
  """The style of a label.

  number: its position among the labels.
  color: as '#rrggbb'.
  marker, symbol: matplotlib's and plotly's name of the marker.
  dash: alternating lengths of dashes and gaps, in line widths; empty for a solid line.
  """

  number: int
  color: str
  marker: str
  symbol: str
  dash: tuple[float, ...]

  @property
  def size(self) -> float:
    """The marker size in points: one of three, so that overlapping hollow markers are visible."""
    return 6 + 2 * (-self.number % 3)

  def marked(self, count: int) -> slice:
    """Which points of a curve have a marker: about eight, different ones for each label."""
    step = max(1, -(-count // _MARKS))
    return slice(self.number % step, None, step)


def _dash(place: int) -> tuple[float, ...]:
  """A different dash pattern for each of twelve positions.

  Patterns with the same lengths are shifted, by cutting a gap or a dash, so that of two overlapping
  curves the lower is visible through the gaps of the upper.
  """
  on, off = _DASHES[place % len(_DASHES)]
  shift = (place // len(_DASHES)) % _PHASES * (on + off) / _PHASES
  if shift <= off:
    return (0, shift, on, off - shift)
  cut = shift - off
  return (cut, off, on - cut, 0)


def _style(index: int) -> Style:
  """Cycles of 7 colours, 9 markers and, except for the solid first line, 12 dash patterns."""
  marker, symbol = [*MARKERS.items()][index % len(MARKERS)]
  dash = _dash(index - 1) if index else ()
  return Style(index, COLORS[index % len(COLORS)], marker, symbol, dash)


def of(labels: Iterable[str]) -> dict[str, Style]:
  """The style of each label, by position. No two of the first 63 labels look the same."""
  return {label: _style(i) for i, label in enumerate(dict.fromkeys(labels))}


def pieces(label: str) -> list[str]:
  """Splits a label where a line may break: after spaces, colons and the like."""
  return re.findall(r'[^\s:=,(]*[\s:=,(]+|[^\s:=,(]+', label)


def wrapped(label: str, width: int) -> list[str]:
  """Wraps a label to lines of at most `width` characters."""
  lines = ['']
  for piece in pieces(label):
    if lines[-1] and len(lines[-1] + piece.rstrip()) > width:
      lines.append('')
    *full, rest = textwrap.wrap(lines[-1] + piece, width, drop_whitespace=False) or ['']
    lines[-1:] = [*full, rest]
  return [line.strip() for line in lines]


def band_alpha(count: int) -> float:
  """The opacity of the interval around one of `count` curves: lower for many, which overlap."""
  return min(0.18, 0.6 / max(count, 1))
