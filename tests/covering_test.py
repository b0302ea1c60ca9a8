import itertools

from tests import covering


def test_every_value_is_shown_by_few_cases():
  cases = [*itertools.product('abcde', (1, 2, 3))]
  chosen = [cases[i] for i in covering.choose(cases)]
  assert len(chosen) == 5
  letters, numbers = zip(*chosen, strict=True)
  assert set(letters) == set('abcde')
  assert sorted(map(numbers.count, (1, 2, 3))) == [1, 2, 2]


def test_what_differs_in_one_value_only_is_all_shown():
  assert covering.choose([(0,), (1,), (2,)]) == {0, 1, 2}
  assert covering.choose([]) == set()


def test_the_marker_leaves_every_value_a_quick_case(pytester):
  pytester.makeconftest("""
    import pytest
    from tests import covering

    def pytest_configure(config):
      config.addinivalue_line('markers', 'each_once: x')
      config.addinivalue_line('markers', 'slow: x')

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(items):
      covering.mark(items)
  """)
  pytester.makepyfile("""
    import pytest

    @pytest.mark.each_once
    @pytest.mark.parametrize('a', [1, 2, 3])
    @pytest.mark.parametrize('b', [('x', 'y'), ('x', 'z')])
    def test_marked(a, b):
      pass

    @pytest.mark.parametrize('a', [1, 2, 3])
    def test_other(a):
      pass
  """)
  pytester.inline_run('-m', 'not slow').assertoutcome(passed=3 + 3)
  pytester.inline_run('-m', 'slow').assertoutcome(passed=3)
