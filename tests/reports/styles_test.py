import itertools

import numpy as np
import pytest

from tff_lowrank.reports import styles


def test_the_first_labels_are_all_told_apart():
  found = styles.of(map(str, range(63))).values()
  assert len({(s.color, s.marker) for s in found}) == 63
  assert len({s.dash for s in found}) == 13
  assert len({s.symbol for s in found}) == len({s.marker for s in found}) == 9


def test_a_label_has_its_style_wherever_it_comes_again():
  assert styles.of(['a', 'b', 'a', 'c', 'b']) == styles.of(['a', 'b', 'c'])


def linear(color):
  srgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
  return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
  """CIE L*a*b* of linear sRGB."""
  to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
  x, y, z = np.cbrt(to_xyz @ rgb.clip(0, 1) / [0.9505, 1, 1.089])
  return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Simulations of full colour blindness (Machado, Oliveira and Fernandes, 2009).
BLINDNESS = {
  'none': np.eye(3),
  'protanopia': [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
  'deuteranopia': [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
  'tritanopia': [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize('kind', BLINDNESS)
def test_colors_are_told_apart_by_the_colour_blind(kind):
  seen = [lab(np.array(BLINDNESS[kind]) @ linear(color)) for color in styles.COLORS]
  # A difference of 2.3 can just be noticed.
  assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 10


def is_drawn(dash, length=400, resolution=12):
  """Of a line, where it is drawn."""
  if not dash:
    return np.ones(length * resolution, bool)
  parts = [np.full(round(part * resolution), i % 2 == 0) for i, part in enumerate(dash)]
  period = np.concatenate(parts)
  return np.resize(period, length * resolution)


def test_of_two_curves_in_one_place_the_lower_is_seen_through_the_upper():
  found = [is_drawn(style.dash) for style in styles.of(map(str, range(13))).values()]
  for lower, upper in itertools.combinations(found, 2):
    assert (lower & ~upper).mean() > 0.08
    assert upper.mean() > 0.3


def test_markers_are_staggered():
  a, b, *_ = styles.of('abc').values()
  assert {*range(100)[a.marked(100)]}.isdisjoint(range(100)[b.marked(100)])
  assert len(range(100)[a.marked(100)]) == 8
  assert len(range(1)[b.marked(1)]) == 1 == len(range(1)[a.marked(1)])


@pytest.mark.parametrize('text', ['', 'a', 'a b', 'x' * 50, 'm:f=1:g=top_k(0.1,2)', '<a b="c">, d'])
def test_labels_in_lines_lose_nothing(text):
  assert ''.join(styles.pieces(text)) == text
  lines = styles.wrapped(text, 12)
  assert all(len(line) <= 12 for line in lines)
  assert ''.join(lines).replace(' ', '') == text.replace(' ', '')


def test_lines_end_where_a_setting_does():
  assert styles.wrapped('apf:apf_ema_decay=0.5:apf_control=fixed', 22) == [
    'apf:apf_ema_decay=0.5:',
    'apf_control=fixed',
  ]
