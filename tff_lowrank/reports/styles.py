"""How labels are drawn: each looks the same in every picture of a comparison, PNG or page."""

from collections.abc import Iterable
import re
import textwrap
from typing import NamedTuple

# Okabe and Ito's colours without yellow: told apart under the common kinds of colour blindness.
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
# Lengths of dashes and of the gaps after them, in widths of the line.
_DASHES = ((5, 3), (2, 2), (9, 3), (3, 4))
# A dash pattern begins at this many places, a third of it apart.
_PHASES = 3
_MARKS = 8


class Style(NamedTuple):
  """How a label is drawn.

  number: its place among the labels.
  color: as '#rrggbb'.
  marker, symbol: matplotlib's and plotly's name of the marker.
  dash: lengths of dashes and gaps in turn, in widths of the line; empty for a solid line.
  """

  number: int
  color: str
  marker: str
  symbol: str
  dash: tuple[float, ...]

  @property
  def size(self) -> float:
    """Of the marker in points: of three sizes, so that hollow ones in one place are both seen."""
    return 6 + 2 * (-self.number % 3)

  def marked(self, count: int) -> slice:
    """Which of a curve's points have a marker: about eight, other ones for each label."""
    step = max(1, -(-count // _MARKS))
    return slice(self.number % step, None, step)


def _dash(place: int) -> tuple[float, ...]:
  """A pattern of its own for each of twelve places.

  Patterns of the same lengths are shifted, by a gap or a dash that is cut, so that of two curves in
  one place the lower is seen through the gaps of the upper.
  """
  on, off = _DASHES[place % len(_DASHES)]
  shift = (place // len(_DASHES)) % _PHASES * (on + off) / _PHASES
  if shift <= off:
    return (0, shift, on, off - shift)
  cut = shift - off
  return (cut, off, on - cut, 0)


def _style(index: int) -> Style:
  """Cycles of 7 colours, 9 markers and, but for the first label's solid line, 12 dashes."""
  marker, symbol = [*MARKERS.items()][index % len(MARKERS)]
  dash = _dash(index - 1) if index else ()
  return Style(index, COLORS[index % len(COLORS)], marker, symbol, dash)


def of(labels: Iterable[str]) -> dict[str, Style]:
  """The style of each label, by their order. No two of the first 63 labels look the same."""
  return {label: _style(i) for i, label in enumerate(dict.fromkeys(labels))}


def pieces(label: str) -> list[str]:
  """A label in the parts between which a line may end: after spaces, colons and the like."""
  return re.findall(r'[^\s:=,(]*[\s:=,(]+|[^\s:=,(]+', label)


def wrapped(label: str, width: int) -> list[str]:
  """A label in lines of at most `width` characters."""
  lines = ['']
  for piece in pieces(label):
    if lines[-1] and len(lines[-1] + piece.rstrip()) > width:
      lines.append('')
    *full, rest = textwrap.wrap(lines[-1] + piece, width, drop_whitespace=False) or ['']
    lines[-1:] = [*full, rest]
  return [line.strip() for line in lines]


def band_alpha(count: int) -> float:
  """How opaque the interval around one of `count` curves is: many lie on each other."""
  return min(0.18, 0.6 / max(count, 1))
