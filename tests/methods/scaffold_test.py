import pytest

from tests.methods import cases
from tff_lowrank import learning
from tff_lowrank import settings
from tff_lowrank.methods import scaffold

METHOD = scaffold.METHOD


def test_it_has_no_settings():
  assert not settings.of(METHOD.settings)


@pytest.mark.parametrize(
  'chosen, message',
  [
    (dict(client_optimizer='adam'), 'client_optimizer=adam does not work with SCAFFOLD'),
    (dict(uplink='cmfl(0.4)'), 'cmfl excludes whole clients from a round'),
  ],
)
def test_refuses(chosen, message):
  METHOD.check(cases.choice(METHOD))
  with pytest.raises(ValueError, match=message):
    METHOD.check(cases.choice(METHOD, **chosen))


def test_builds_scaffold_with_a_codec():
  expected = learning.build_scaffold(
    **cases.common(), num_clients=cases.NUM_CLIENTS, codec=cases.QSGD, seed=cases.SEED
  )
  cases.assert_same(cases.run(cases.build(METHOD, uplink='qsgd')), cases.run(expected))


def test_the_first_round_is_fed_avg_s():
  [first, second], _ = cases.run(cases.build(METHOD))
  [plain, later], _ = cases.fed_avg()
  cases.assert_same_model([[first]], [[plain]])
  assert not all((a == b).all() for a, b in zip(second, later, strict=True))


def test_it_takes_no_codec_down():
  cases.check_has_no_downlink(METHOD, learning.build_scaffold, num_clients=cases.NUM_CLIENTS)
