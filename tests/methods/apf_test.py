import pytest

from tests.methods import cases
from tff_lowrank import freezing
from tff_lowrank import learning
from tff_lowrank import settings
from tff_lowrank.analysis import replay
from tff_lowrank.methods import apf

METHOD = apf.METHOD
# So that what has moved is frozen after the first round.
FREEZES = dict(apf_stability_threshold=1.5, apf_mask_policy='derived')


def test_defaults_are_those_of_freezing():
  assert METHOD.freezing(cases.choice(METHOD)) == freezing.Settings(seed=cases.SEED)
  assert METHOD.settings().apf_mask_policy == 'server'


@pytest.mark.parametrize(
  'impossible',
  [
    dict(apf_stability_threshold=-0.1), dict(apf_check_every=0), dict(apf_aggressive='sometimes'),
    dict(apf_ema_decay=1), dict(apf_granularity='layer'), dict(apf_zero_update='no'),
    dict(apf_mask_policy='client'), dict(apf_control='tcp'),
  ],
)  # fmt: skip
def test_bounds(impossible):
  with pytest.raises(settings.SettingError, match=f'{next(iter(impossible))} must be'):
    METHOD.settings(**impossible)


def test_all_settings_reach_freezing():
  own = dict(
    apf_stability_threshold=0.3, apf_check_every=2, apf_ema_decay=0.5, apf_control='fixed',
    apf_aggressive='growing', apf_granularity='tensor', apf_zero_update='stable',
  )  # fmt: skip
  expected = {name.removeprefix('apf_'): value for name, value in own.items()}
  found = METHOD.freezing(cases.choice(METHOD, **own))
  assert found == freezing.Settings(**expected, seed=cases.SEED)


def test_refuses_what_contradicts():
  with pytest.raises(ValueError, match='freezes nothing, but'):
    METHOD.freezing(cases.choice(METHOD, apf_stability_threshold=0, apf_aggressive='growing'))
  METHOD.check(cases.choice(METHOD, uplink='qsgd'))
  for uplink in ('power_sgd(1)', 'cmfl'):
    with pytest.raises(ValueError, match='does not work with freezing'):
      METHOD.check(cases.choice(METHOD, uplink=uplink))


def test_builds_apf_with_a_codec():
  expected = learning.build_apf_fed_avg(
    **cases.common(), codec=cases.QSGD, mask_policy='derived', seed=cases.SEED,
    freezing_settings=freezing.Settings(stability_threshold=1.5, seed=cases.SEED),
  )  # fmt: skip
  mine = cases.run(cases.build(METHOD, uplink='qsgd', **FREEZES))
  cases.assert_same(mine, cases.run(expected))
  (first, *_), (second, *_) = mine[1]
  assert second['uplink']['payload'] < first['uplink']['payload']


def test_at_threshold_0_it_is_fed_avg():
  mine = cases.build(METHOD, apf_stability_threshold=0)
  cases.assert_same(cases.run(mine), cases.fed_avg())


def test_it_takes_no_codec_down():
  cases.check_has_no_downlink(METHOD, learning.build_apf_fed_avg)


def test_replays_its_checks():
  rounds, chosen = cases.some_rounds(), cases.choice(METHOD, **FREEZES)
  expected = replay.replay_freezing(METHOD.freezing(chosen), 'derived', rounds)
  found = METHOD.replay(chosen, rounds)
  cases.assert_same_replay(found, expected)
  assert found.frozen_fraction.any()
