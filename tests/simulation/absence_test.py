import pytest

from tff_lowrank.simulation import absence
from tff_lowrank.simulation import network

IDS = [f'client_{i}' for i in range(40)]


def dropped(seed, rate=0.3, rounds=range(1, 51)):
  who = absence.Absence(seed, rate)
  return {(r, c) for r in rounds for c in IDS if who.reason(c, r) == absence.DROPPED_OUT}


def test_dropping_out_depends_on_seed_round_and_client_alone():
  assert dropped(1) == dropped(1)
  assert {(r, c) for r, c in dropped(1) if r == 7} == dropped(1, rounds=[7])
  assert dropped(1) != dropped(2)
  # 2,000 draws: 600, with a standard deviation of 20.
  assert 500 < len(dropped(1)) < 700
  assert len({r for r, _ in dropped(1)}) == 50


def test_rates_of_nothing_and_everything():
  assert not dropped(1, 0.0) and len(dropped(1, 1.0)) == 2000


def test_a_straggler_sits_out_once():
  # At 8 Mbps a byte takes a microsecond: 0.6 s down and 0.5 s up.
  who = absence.Absence(1, 0.0, 1.0, network.Network(8, 8))
  assert who.reason('a', 1) is None  # Nothing is known of it.
  who.enter('a', 600_000, 500_000)
  who.enter('b', 600_000, 400_000)
  assert [who.reason(c, 2) for c in 'ab'] == [absence.STRAGGLED, None]
  assert [who.reason(c, 3) for c in 'ab'] == [None, None]


def test_restore_is_the_inverse_of_save():
  who = absence.Absence(1, 0.0, 1.0)
  who.enter('../a', 10**9, 2)
  other = absence.Absence(1, 0.0, 1.0)
  other.restore(*who.save())
  assert other.reason('../a', 1) == absence.STRAGGLED
  assert absence.Absence(1).save()[1].shape == (0, 2)


def test_refuses_impossible_settings():
  with pytest.raises(ValueError, match='`dropout_rate` must be in'):
    absence.Absence(1, 1.5)
  with pytest.raises(ValueError, match='`deadline_seconds` must be above 0'):
    absence.Absence(1, 0.0, 0.0)
