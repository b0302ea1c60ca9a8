"""What a check of an installation finds."""

import dataclasses

OK, WARNING, PROBLEM = 'ok', 'warning', 'PROBLEM'


@dataclasses.dataclass(frozen=True)
class Finding:
  """What a check found, and unless the level is `OK`, what to do."""

  name: str
  level: str
  found: str
  advice: str = ''

  def __str__(self) -> str:
    return f'{self.level:8} {self.name}: {self.found}' + (f'. {self.advice}' if self.advice else '')
