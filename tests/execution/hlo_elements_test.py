import numpy as np
import pytest

from tff_lowrank.execution import hlo_elements


@pytest.mark.parametrize('dtype', [np.float16, np.float32])
def test_the_total_order_has_a_place_for_all(dtype):
  ascending = np.array([-np.inf, -2, -1e-7, -0.0, 0.0, 1e-7, 2, np.inf, np.nan], dtype)
  keys = np.asarray(hlo_elements.total_order(ascending)).astype(np.int64)
  assert (np.diff(keys) > 0).all()


def test_integers_are_in_their_own_order():
  numbers = np.array([3, -1], np.int32)
  assert hlo_elements.total_order(numbers) is numbers
