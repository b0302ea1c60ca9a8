import pytest

from tests.methods import cases
from tff_lowrank import learning
from tff_lowrank import settings
from tff_lowrank.methods import fed_dyn

METHOD = fed_dyn.METHOD


def test_settings():
  assert METHOD.settings() == fed_dyn.FedDynSettings(fed_dyn_alpha=0.1)
  with pytest.raises(settings.SettingError, match='fed_dyn_alpha must be at least 0, found -1'):
    METHOD.settings(fed_dyn_alpha=-1)


def test_refuses_codecs_that_keep_clients_out():
  METHOD.check(cases.choice(METHOD, uplink='top_k(0.1)'))
  with pytest.raises(ValueError, match='cmfl excludes whole clients from a round'):
    METHOD.check(cases.choice(METHOD, uplink='cmfl(0.4, error_feedback(top_k(0.1)))'))


def test_builds_fed_dyn_with_a_codec():
  expected = learning.build_fed_dyn(
    **cases.common(), alpha=0.5, num_clients=cases.NUM_CLIENTS, codec=cases.QSGD,
    seed=cases.SEED,
  )  # fmt: skip
  mine = cases.build(METHOD, fed_dyn_alpha=0.5, uplink='qsgd')
  cases.assert_same(cases.run(mine), cases.run(expected))


def test_without_regulariser_it_is_fed_avg():
  cases.assert_same(cases.run(cases.build(METHOD, fed_dyn_alpha=0)), cases.fed_avg())


def test_it_takes_no_codec_down():
  cases.check_has_no_downlink(METHOD, learning.build_fed_dyn, num_clients=cases.NUM_CLIENTS)
