import pytest

from tests.methods import cases
from tff_lowrank import learning
from tff_lowrank import settings
from tff_lowrank.methods import fed_prox

METHOD = fed_prox.METHOD


def test_settings():
  assert METHOD.settings() == fed_prox.FedProxSettings(fed_prox_mu=0.1)
  with pytest.raises(settings.SettingError, match='fed_prox_mu must be at least 0, found -1'):
    METHOD.settings(fed_prox_mu=-1)


def test_builds_fed_prox_with_a_codec():
  expected = learning.build_fed_prox(**cases.common(), mu=0.5, codec=cases.QSGD, seed=cases.SEED)
  mine = cases.build(METHOD, fed_prox_mu=0.5, uplink='qsgd')
  cases.assert_same(cases.run(mine), cases.run(expected))


def test_without_pull_it_is_fed_avg():
  cases.assert_same(cases.run(cases.build(METHOD, fed_prox_mu=0)), cases.fed_avg())


def test_it_takes_no_codec_down():
  cases.check_has_no_downlink(METHOD, learning.build_fed_prox)
