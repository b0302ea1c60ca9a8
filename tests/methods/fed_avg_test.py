from tests.methods import cases
from tff_lowrank import codecs
from tff_lowrank import learning
from tff_lowrank import settings
from tff_lowrank.analysis import replay
from tff_lowrank.methods import fed_avg

METHOD = fed_avg.METHOD


def test_it_is_the_baseline_without_settings():
  assert METHOD.is_baseline and not settings.of(METHOD.settings)


def test_builds_fed_avg():
  cases.assert_same(cases.run(cases.build(METHOD)), cases.fed_avg())


def test_codecs_go_both_ways():
  mine = cases.run(cases.build(METHOD, uplink='qsgd', downlink='float16'))
  expected = learning.build_compressed_fed_avg(
    **cases.common(), codec=cases.QSGD, downlink=cases.FLOAT16, seed=cases.SEED
  )
  cases.assert_same(mine, cases.run(expected))
  assert METHOD.takes_uplink and METHOD.takes_downlink


def test_replays_its_codec():
  rounds = cases.some_rounds()
  cases.assert_same_replay(
    METHOD.replay(cases.choice(METHOD, uplink='random_k(0.5)'), rounds),
    replay.replay_codec(codecs.RandomK(0.5), rounds, cases.SEED),
  )


def test_advice_tries_codecs():
  name, values = METHOD.tried
  assert name == 'uplink' and all(codecs.parse(value) for value in values)
