"""The manifests of checkpoints: facts about a run without its tensors. Needs no TensorFlow."""

from collections.abc import Iterator, Mapping
import hashlib
import json
import pathlib
import re
from typing import Any, NamedTuple

from tff_lowrank import files
from tff_lowrank.simulation import append_log

FILE = 'checkpoint.json'
_NAME = re.compile(r'round_(\d{10})')

# Flags that may have another value when a run is resumed.
MAY_CHANGE = ('rounds', 'data_dir', 'ray_address', 'ray_workers')


class DamagedError(ValueError):
  """A checkpoint has changed since it was written; the message names the file."""


class MismatchError(ValueError):
  """A checkpoint is undamaged, but of another run; the message says what differs."""


def differing_flags(saved: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
  """Differing flags as `--FLAG is A there and B here`, except flags that may change."""

  def show(flags: Mapping[str, Any], name: str) -> str:
    return f'{flags[name]!r}' if name in flags else 'absent'

  given = json.loads(json.dumps(dict(given)))
  return [
    f'--{name} is {show(saved, name)} there and {show(given, name)} here'
    for name in sorted({*saved, *given} - set(MAY_CHANGE))
    if show(saved, name) != show(given, name)
  ]


def check_same_run(
  folder: pathlib.Path, saved: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
  """Raises MismatchError, naming the flags, unless a run with `given` can resume `saved`."""
  differing = differing_flags(saved, given)
  if differing:
    raise MismatchError(
      f'{folder} contains another run: {", ".join(differing)}. Use the same flags or another '
      '--output_dir.'
    )


def digest(data: bytes) -> dict[str, Any]:
  return dict(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def seal(content: Mapping[str, Any]) -> bytes:
  """A manifest with this content and its checksum."""
  text = json.dumps(content, indent=1, sort_keys=True)
  return json.dumps(dict(content=content, sha256=digest(text.encode())['sha256'])).encode()


def unseal(data: bytes) -> dict[str, Any]:
  """The content of a manifest; raises DamagedError if it has changed."""
  try:
    sealed = json.loads(data)
    text = json.dumps(sealed['content'], indent=1, sort_keys=True)
    if sealed['sha256'] != digest(text.encode())['sha256']:
      raise ValueError('its checksum differs')
    return dict(sealed['content'])
  except (ValueError, KeyError, TypeError, RecursionError) as e:
    raise DamagedError(f'{FILE} is damaged: {e}') from e


def path_of(folder: pathlib.Path, round_num: int) -> pathlib.Path:
  """The folder of a round's checkpoint."""
  return folder / f'round_{round_num:010d}'


def saved_rounds(folder: pathlib.Path) -> list[int]:
  """The rounds with checkpoints in `folder`, which need not exist."""
  names = (_NAME.fullmatch(path.name) for path in folder.glob('*'))
  return sorted(int(match[1]) for match in names if match)


class Manifest(NamedTuple):
  """The flags of the run, and length and SHA-256 of each log at the checkpoint."""

  flags: dict[str, Any]
  logs: dict[str, append_log.Position]


def newest_first(folder: pathlib.Path) -> Iterator[Manifest]:
  """The undamaged manifests in `folder`, that of the newest checkpoint first."""
  for round_num in reversed(saved_rounds(folder)):
    path = path_of(folder, round_num) / FILE
    try:
      with files.reading(path, 'the manifest of a checkpoint'):
        content = unseal(path.read_bytes())
        if content['round'] != round_num:
          raise DamagedError(f'{FILE} is that of round {content["round"]}')
        logs = {name: append_log.Position(*found) for name, found in content['logs'].items()}
        found = Manifest(dict(content['flags']), logs)
    except (files.FileError, FileNotFoundError):  # Damaged, or just being removed by the run.
      continue
    yield found
