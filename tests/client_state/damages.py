"""Damages to the file of a store, and what comes of them."""

import collections
from collections.abc import Callable
import multiprocessing
import os
import pathlib

import numpy as np

from tff_lowrank.client_state import lmdb_check

PAGE = 4096


def live_pages(path: pathlib.Path) -> list[int]:
  """The pages of a file that are not free."""
  with path.open('rb') as file:
    found = lmdb_check._File(file.fileno())
    for table in found.tables().values():
      for _ in found.items(table):
        pass
    for _ in found.items(found.free, lambda key: int.from_bytes(key, 'little')):
      pass
  return [number for number, is_used in enumerate(found._is_used) if is_used]


def damage(data: bytes, page: int, rng: np.random.Generator) -> bytes:
  """`data` with a page changed: bits, some bytes, zeros, or what is on another page."""
  content = np.frombuffer(data, np.uint8).copy()
  here = content[page * PAGE : (page + 1) * PAGE]
  # Half of the damages are where LMDB's own numbers are.
  start = int(rng.integers(0, 128 if rng.random() < 0.5 else PAGE))
  kind = rng.integers(0, 5)
  if kind <= 1:
    here[start] ^= 1 << rng.integers(0, 8)
  elif kind == 2:
    some = here[start : start + int(rng.integers(1, 65))]
    some[:] = rng.integers(0, 256, len(some))
  elif kind == 3:
    here[start:] = 0
  else:
    other = int(rng.integers(0, len(data) // PAGE))
    here[:] = content[other * PAGE : (other + 1) * PAGE]
  return content.tobytes()


def outcome(action: Callable[[], str]) -> str:
  """What `action` returns in a process of its own, or `aborted` if that does not end well."""
  context = multiprocessing.get_context('fork')
  receiver, sender = context.Pipe(duplex=False)

  def run() -> None:
    # What a damaged page makes the C library say is not shown.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sender.send(action())

  process = context.Process(target=run)
  process.start()
  sender.close()
  try:
    return receiver.recv()
  except EOFError:
    return 'aborted'
  finally:
    process.join()
    process.close()


def outcomes(
  path: pathlib.Path, count: int, seed: int, action: Callable[[], str]
) -> collections.Counter[str]:
  """How often `action` had which outcome, after `count` damages of the file at `path`."""
  rng = np.random.default_rng(seed)
  whole, pages = path.read_bytes(), live_pages(path)
  found = collections.Counter()
  for _ in range(count):
    damaged = damage(whole, int(rng.choice(pages)), rng)
    while damaged == whole:
      damaged = damage(whole, int(rng.choice(pages)), rng)
    path.write_bytes(damaged)
    found[outcome(action)] += 1
  path.write_bytes(whole)
  return found
