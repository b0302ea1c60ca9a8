from collections.abc import Callable
import dataclasses
import math

import pytest

from tff_lowrank import settings


@dataclasses.dataclass(frozen=True)
class Example(settings.Settings):
  name: str
  rate: float = settings.field(0.5, 'A rate.', at_least=0, below=1)
  decay: float = settings.field(1.0, 'A factor.', above=0, at_most=1)
  count: int = settings.field(3, 'A count.', at_least=1)
  limit: float | None = settings.field(None, 'A limit.', above=0)
  kind: str = settings.field('a', 'A kind.', choices=('a', 'b'))
  folder: str | None = settings.field(None, 'A folder.', is_path=True, group='data')
  is_on: bool = settings.field(False, 'A switch.')
  speed: float | Callable[[str], float] = settings.field(  # noqa: RUF009
    1.0, 'A speed.', above=0, by_client=True
  )


def test_fields_say_what_settings_are():
  found = settings.of(Example)
  assert list(found) == ['rate', 'decay', 'count', 'limit', 'kind', 'folder', 'is_on', 'speed']
  assert [s.kind for s in found.values()] == [float, float, int, float, str, str, bool, float]
  assert [s.is_optional for s in found.values()] == [False] * 3 + [True, False, True, False, False]
  assert [s.default for s in found.values()] == [0.5, 1.0, 3, None, 'a', None, False, 1.0]
  assert [s.by_client for s in found.values()] == [False] * 7 + [True]
  assert found['folder'].is_path and found['folder'].group == 'data'
  assert found['kind'].choices == ('a', 'b') and found['kind'].about == 'A kind.'


def test_possible_values():
  made = Example('x', rate=0, decay=1, count=2**31 - 1, limit=7, kind='b', folder='~', is_on=True)
  assert made.rate == 0.0 and isinstance(made.rate, float) and isinstance(made.limit, float)
  assert Example('x').limit is None


@pytest.mark.parametrize('speed', [2, len, 'package.module:FUNCTION'])
def test_what_may_be_a_function_of_the_client(speed):
  assert Example('x', speed=speed).speed == speed
  with pytest.raises(settings.SettingError, match='rate must be a number, found'):
    Example('x', rate=len)


@pytest.mark.parametrize(
  'value, message',
  [
    (dict(rate=1), 'rate must be below 1, found 1'),
    (dict(rate=-0.1), 'rate must be at least 0, found -0.1'),
    (dict(rate=math.nan), 'rate must be a finite number, found nan'),
    (dict(limit=math.inf), 'limit must be a finite number, found inf'),
    (dict(rate='0.5'), "rate must be a number, found '0.5' of type str"),
    (dict(rate=True), 'rate must be a number, found True of type bool'),
    (dict(rate=None), 'rate must be a number, found None'),
    (dict(decay=0), 'decay must be above 0, found 0'),
    (dict(decay=1.5), 'decay must be at most 1, found 1.5'),
    (dict(count=1.0), 'count must be a whole number, found 1.0 of type float'),
    (dict(count=2**31), f'count must be at most {2**31 - 1}, found {2**31}'),
    (dict(count=0), 'count must be at least 1, found 0'),
    (dict(limit=0), 'limit must be above 0, found 0'),
    (dict(kind='c'), "kind must be one of a, b, found 'c'"),
    (dict(folder=3), 'folder must be a text, found 3'),
    (dict(is_on=1), 'is_on must be True or False, found 1 of type int'),
  ],
)
def test_impossible_values(value, message):
  with pytest.raises(settings.SettingError, match=message):
    Example('x', **value)
  with pytest.raises(ValueError):  # As callers of a library expect.
    dataclasses.replace(Example('x'), **value)
