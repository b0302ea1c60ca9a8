import pytest

from tests.methods import cases
from tff_lowrank import layers
from tff_lowrank import learning
from tff_lowrank import settings
from tff_lowrank.methods import pfedpara

METHOD = pfedpara.METHOD


def test_it_is_personal_and_its_models_are_of_its_family():
  assert METHOD.is_personal and METHOD.model_family == 'pfedpara'
  assert not settings.of(METHOD.settings)


def test_factors_of_the_second_term_are_the_client_s_own():
  personal = layers.personal_mask(cases.two_layers())
  assert sum(personal) == 2
  expected = learning.build_personal_fed_avg(
    **cases.common(cases.two_layers), personal=personal, codec=cases.QSGD, seed=cases.SEED
  )
  cases.assert_same(
    cases.run(cases.build(METHOD, cases.two_layers, uplink='qsgd')), cases.run(expected)
  )
  cases.check_has_no_downlink(METHOD, learning.build_personal_fed_avg, personal=personal)


def test_refuses_a_model_without_factors():
  with pytest.raises(ValueError, match='finds no personal weights in the model'):
    cases.build(METHOD)
