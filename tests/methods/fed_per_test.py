import pytest

from tests.methods import cases
from tff_lowrank import learning
from tff_lowrank import settings
from tff_lowrank.methods import fed_per

METHOD = fed_per.METHOD
# Four factors and a bias, then the kernel and the bias of the last layer.
LAST = [False] * 5 + [True] * 2


def test_it_is_personal_without_settings():
  assert METHOD.is_personal and not settings.of(METHOD.settings)


def test_the_last_layer_is_the_client_s_own():
  expected = learning.build_personal_fed_avg(
    **cases.common(cases.two_layers), personal=LAST, codec=cases.QSGD, seed=cases.SEED
  )
  cases.assert_same(
    cases.run(cases.build(METHOD, cases.two_layers, uplink='qsgd')), cases.run(expected)
  )


def test_refuses_a_model_of_one_layer():
  with pytest.raises(ValueError, match='finds no shared weights in the model'):
    cases.build(METHOD)


def test_it_takes_no_codec_down():
  cases.check_has_no_downlink(METHOD, learning.build_personal_fed_avg, personal=LAST)
