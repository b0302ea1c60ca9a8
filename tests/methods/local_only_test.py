import numpy as np

from tests.learning import linear
from tests.methods import cases
from tff_lowrank import learning
from tff_lowrank import settings
from tff_lowrank.methods import local_only

METHOD = local_only.METHOD


def test_it_is_personal_without_settings():
  assert METHOD.is_personal and not settings.of(METHOD.settings)


def test_it_is_the_process_where_all_is_personal_and_nothing_is_sent():
  mine = cases.run(cases.build(METHOD))
  cases.assert_same(mine, cases.run(learning.build_local_only(**cases.common())))
  weights, bits = mine
  initial = cases.model(linear.keras_model).initial_weights[0]
  for kept, first in zip(weights[-1], initial, strict=True):
    np.testing.assert_array_equal(kept, first)
  assert not any(bits[-1][0]['uplink'].values())


def test_it_takes_no_codec():
  assert not METHOD.takes_uplink
  cases.check_has_no_downlink(METHOD, learning.build_local_only)
