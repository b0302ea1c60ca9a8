import pytest

from tff_lowrank import settings
from tff_lowrank.runs import saving
from tff_lowrank.runs import spec


def test_defaults_and_bounds():
  assert saving.Saving() == saving.Saving(10, 2, False, 64)
  with pytest.raises(settings.SettingError, match='checkpoint_every must be at least 1, found 0'):
    saving.Saving(checkpoint_every=0)
  with pytest.raises(settings.SettingError, match='keep_best must be True or False, found 1'):
    saving.Saving(keep_best=1)


def test_nothing_of_it_decides_numbers():
  assert not settings.of(saving.Saving).keys() & settings.of(spec.RunSpec).keys()
