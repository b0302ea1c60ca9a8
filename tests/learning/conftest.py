"""Fixtures of small rounds; see `tiny`."""

import pytest

from tests.learning import linear
from tests.learning import tiny


@pytest.fixture
def model(rng):
  return linear.build_model(rng)


@pytest.fixture
def clients(rng):
  return {c: linear.examples(rng, n) for c, n in tiny.NUMBERS.items()}
