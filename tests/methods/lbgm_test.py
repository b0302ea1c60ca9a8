import pytest

from tests.methods import cases
from tff_lowrank import codecs
from tff_lowrank import learning
from tff_lowrank import settings
from tff_lowrank.analysis import replay
from tff_lowrank.methods import lbgm

METHOD = lbgm.METHOD


def test_settings():
  assert METHOD.settings() == lbgm.SubspaceSettings(
    lbgm_threshold=0.2, lbgm_granularity='tensor', lbgm_vectors=1, lbgm_predictive=False
  )
  for impossible in (
    dict(lbgm_threshold=1.1),
    dict(lbgm_granularity='layer'),
    dict(lbgm_vectors=0),
    dict(lbgm_vectors=65),
    dict(lbgm_predictive=1),
  ):
    with pytest.raises(settings.SettingError, match=f'{next(iter(impossible))} must be'):
      METHOD.settings(**impossible)
  name, values = METHOD.tried
  assert all(METHOD.settings(**{name: value}) for value in values)


def test_refuses_inner_codecs_that_remember():
  METHOD.check(cases.choice(METHOD, uplink='top_k(0.1)'))
  with pytest.raises(ValueError, match='look_back cannot be around cmfl'):
    METHOD.check(cases.choice(METHOD, uplink='cmfl'))


def test_builds_lbgm_around_a_codec():
  chosen = dict(lbgm_threshold=0.9, lbgm_granularity='model')
  expected = learning.build_lbgm_fed_avg(
    **cases.common(), threshold=0.9, granularity='model', inner=codecs.TopK(0.5),
    downlink=cases.FLOAT16, seed=cases.SEED,
  )  # fmt: skip
  mine = cases.build(METHOD, uplink='top_k(0.5)', downlink='float16', **chosen)
  cases.assert_same(cases.run(mine), cases.run(expected))
  assert METHOD.takes_uplink and METHOD.takes_downlink


def test_looks_back_at_several_vectors():
  chosen = dict(lbgm_threshold=0.9, lbgm_vectors=3, lbgm_predictive=True)
  expected = learning.build_lbgm_fed_avg(
    **cases.common(), threshold=0.9, vectors=3, predictive=True, inner='top_k(0.5)', seed=cases.SEED
  )
  mine = cases.build(METHOD, uplink='top_k(0.5)', **chosen)
  cases.assert_same(cases.run(mine), cases.run(expected))


def test_at_threshold_0_it_is_fed_avg():
  cases.assert_same_model(cases.run(cases.build(METHOD, lbgm_threshold=0)), cases.fed_avg())


def test_replays_its_rule_around_the_codec():
  rounds = cases.some_rounds()
  chosen = cases.choice(METHOD, uplink='float16', lbgm_threshold=0.3, lbgm_granularity='model')
  expected = replay.replay_codec(codecs.LookBack(cases.FLOAT16, 0.3, 'model'), rounds, cases.SEED)
  found = METHOD.replay(chosen, rounds)
  cases.assert_same_replay(found, expected)
  assert found.uplink_bytes[2] < found.uplink_bytes[0]
