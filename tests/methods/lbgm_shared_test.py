import inspect

from tests.methods import cases
from tff_lowrank import learning
from tff_lowrank.methods import lbgm
from tff_lowrank.methods import lbgm_shared

METHOD = lbgm_shared.METHOD


def test_its_settings_are_the_paper_s():
  assert METHOD.settings is lbgm.LbgmSettings


def test_builds_shared_lbgm_with_a_codec_down():
  chosen = dict(lbgm_threshold=0.9, lbgm_granularity='model')
  expected = learning.build_shared_lbgm_fed_avg(
    **cases.common(), threshold=0.9, granularity='model', downlink=cases.FLOAT16, seed=cases.SEED
  )
  mine = cases.build(METHOD, downlink='float16', **chosen)
  cases.assert_same(cases.run(mine), cases.run(expected))


def test_at_threshold_0_it_is_fed_avg():
  cases.assert_same_model(cases.run(cases.build(METHOD, lbgm_threshold=0)), cases.fed_avg())


def test_it_takes_a_codec_down_only():
  assert METHOD.takes_downlink and not METHOD.takes_uplink
  taken = inspect.signature(learning.build_shared_lbgm_fed_avg).parameters
  assert not {'codec', 'inner'} & {*taken}
