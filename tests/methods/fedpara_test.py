from tests.methods import cases
from tff_lowrank import learning
from tff_lowrank import settings
from tff_lowrank.methods import fedpara

METHOD = fedpara.METHOD


def test_its_models_are_of_its_family():
  assert METHOD.model_family == 'fedpara' and not settings.of(METHOD.settings)
  assert METHOD.tried[0] == 'fedpara_gamma' and all(0 <= gamma <= 1 for gamma in METHOD.tried[1])


def test_it_is_fed_avg_with_codecs_both_ways():
  expected = learning.build_compressed_fed_avg(
    **cases.common(), codec=cases.QSGD, downlink=cases.FLOAT16, seed=cases.SEED
  )
  mine = cases.build(METHOD, uplink='qsgd', downlink='float16')
  cases.assert_same(cases.run(mine), cases.run(expected))
