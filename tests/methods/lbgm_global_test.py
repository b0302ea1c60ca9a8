import pytest

from tests.methods import cases
from tff_lowrank import learning
from tff_lowrank.methods import lbgm
from tff_lowrank.methods import lbgm_global

METHOD = lbgm_global.METHOD


def test_it_shares_its_settings_with_lbgm():
  assert METHOD.settings is lbgm.METHOD.settings


def test_builds_global_lbgm_around_a_codec():
  chosen = dict(lbgm_threshold=0.9, lbgm_vectors=2, lbgm_predictive=True)
  expected = learning.build_global_lbgm_fed_avg(
    **cases.common(), threshold=0.9, vectors=2, predictive=True, inner='top_k(0.5)', seed=cases.SEED
  )
  mine = cases.build(METHOD, uplink='top_k(0.5)', **chosen)
  cases.assert_same(cases.run(mine), cases.run(expected))


def test_at_threshold_0_it_is_fed_avg():
  cases.assert_same_model(cases.run(cases.build(METHOD, lbgm_threshold=0)), cases.fed_avg())


def test_it_takes_a_codec_up_only():
  cases.check_has_no_downlink(METHOD, learning.build_global_lbgm_fed_avg)
  with pytest.raises(ValueError, match='look_back cannot be around cmfl'):
    METHOD.check(cases.choice(METHOD, uplink='cmfl'))
