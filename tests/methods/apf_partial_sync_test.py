import pytest

from tests.methods import cases
from tff_lowrank import freezing
from tff_lowrank import learning
from tff_lowrank.methods import apf
from tff_lowrank.methods import apf_partial_sync

METHOD = apf_partial_sync.METHOD


def test_it_freezes_for_good():
  assert METHOD.freezing(cases.choice(METHOD)) == freezing.Settings(
    control='permanent', seed=cases.SEED
  )
  assert {*apf.METHOD.setting_names} - {*METHOD.setting_names} == {'apf_control'}


def test_refuses_codecs_that_do_not_go_with_freezing():
  with pytest.raises(ValueError, match='does not work with freezing'):
    METHOD.check(cases.choice(METHOD, uplink='cmfl'))


def test_builds_partial_synchronisation_with_a_codec():
  permanent = freezing.Settings(stability_threshold=1.5, control='permanent', seed=cases.SEED)
  expected = learning.build_partial_sync_fed_avg(
    **cases.common(), codec=cases.QSGD, mask_policy='derived', seed=cases.SEED,
    freezing_settings=permanent,
  )  # fmt: skip
  mine = cases.build(METHOD, uplink='qsgd', apf_stability_threshold=1.5, apf_mask_policy='derived')
  cases.assert_same(cases.run(mine), cases.run(expected))


def test_at_threshold_0_it_is_fed_avg():
  mine = cases.build(METHOD, apf_stability_threshold=0)
  cases.assert_same(cases.run(mine), cases.fed_avg())


def test_it_takes_no_codec_down():
  cases.check_has_no_downlink(METHOD, learning.build_partial_sync_fed_avg)
