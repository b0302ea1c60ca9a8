"""The result of a check of the installation."""

import dataclasses

OK, WARNING, PROBLEM = 'ok', 'warning', 'PROBLEM'


@dataclasses.dataclass(frozen=True)
class Finding:
  """The result of a check and, unless the level is `OK`, advice."""

  name: str
  level: str
  found: str
  advice: str = ''

  def __str__(self) -> str:
    return f'{self.level:8} {self.name}: {self.found}' + (f'. {self.advice}' if self.advice else '')
