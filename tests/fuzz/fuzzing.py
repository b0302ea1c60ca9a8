"""Runs a property on a corpus and on what hypothesis makes up, for seconds or for minutes."""

import hypothesis
from hypothesis import strategies as st
import pytest

# A parameter `examples` of tests: few in the suite, many in `./dev slow`.
AMOUNTS = pytest.mark.parametrize(
  'examples', [60, pytest.param(4_000, marks=pytest.mark.slow)], ids=['short', 'long']
)


def fuzz(examples, strategy, check, corpus=()):
  """Calls `check` on all of `corpus`, then on `examples` values of `strategy`."""
  # Seeded by the test itself, so that the suite does the same on every machine.
  run = hypothesis.settings(
    max_examples=examples,
    derandomize=examples < 100,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
  )(hypothesis.given(strategy)(lambda value: check(value)))
  for value in corpus:
    run = hypothesis.example(value)(run)
  run()


def damaged(data):
  """`data` with a few of its bytes changed, cut out, repeated or inserted; or other bytes."""
  place = st.integers(0, max(len(data), 1))
  edit = st.tuples(st.sampled_from(['flip', 'cut', 'repeat', 'insert']), place, place)

  def apply(edits, inserted):
    found = data
    for kind, a, b in edits:
      start, end = sorted((min(a, len(found)), min(b, len(found))))
      if kind == 'flip' and start < len(found):
        found = found[:start] + bytes([found[start] ^ (1 << b % 8)]) + found[start + 1 :]
      elif kind == 'cut':
        found = found[:start] + found[end:]
      elif kind == 'repeat':
        found = found[:end] + found[start:end][:1000] + found[end:]
      elif kind == 'insert':
        found = found[:start] + inserted + found[start:]
    return found

  edits = st.builds(apply, st.lists(edit, min_size=1, max_size=3), st.binary(max_size=9))
  return st.one_of(edits, st.binary(max_size=100))
