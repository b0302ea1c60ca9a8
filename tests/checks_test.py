import pytest

from tff_lowrank import checks


def test_check_type():
  checks.check_type('x', 3, int)
  checks.check_type('x', True, bool)
  with pytest.raises(TypeError, match='`x` must be `int` or `float`, found True of type bool'):
    checks.check_type('x', True, (int, float))
  with pytest.raises(TypeError, match="`x` must be `int`, found '3' of type str"):
    checks.check_type('x', '3', int)


@pytest.mark.parametrize('value', [0, 1, 0.5])
def test_check_in_range_accepts_the_ends(value):
  checks.check_in_range('x', value, 0, 1)


@pytest.mark.parametrize('value', [-0.001, 1.001, float('nan'), float('inf')])
def test_check_in_range_refuses(value):
  with pytest.raises(ValueError, match=r'`x` must be in \[0, 1\], found'):
    checks.check_in_range('x', value, 0, 1)


def test_check_at_least_and_one_of():
  checks.check_at_least('n', 2, 2)
  with pytest.raises(ValueError, match='`n` must be at least 2, found 1'):
    checks.check_at_least('n', 1, 2)
  with pytest.raises(TypeError):
    checks.check_at_least('n', 2.0, 2)
  checks.check_one_of('g', 'a', ('a', 'b'))
  with pytest.raises(ValueError, match="`g` must be one of 'a', 'b', found 'c'"):
    checks.check_one_of('g', 'c', ('a', 'b'))
