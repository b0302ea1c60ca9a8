import pytest

from tff_lowrank import settings
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import manifest


def test_settings_of_a_cluster_belong_to_its_context():
  spec = spec_lib.make('fed_avg', dict(context='ray', ray_address='auto', ray_workers=3))
  assert (spec.ray_address, spec.ray_workers) == ('auto', 3)
  for name, value in (('ray_address', 'auto'), ('ray_workers', 3)):
    for context in ('local', 'stock'):
      with pytest.raises(settings.SettingError, match=f'{name}=.* has no effect with context='):
        spec_lib.make('fed_avg', {name: value, 'context': context})
  with pytest.raises(settings.SettingError, match='ray_workers must be at least 1'):
    spec_lib.make('fed_avg', dict(context='ray', ray_workers=0))


def test_runs_without_a_cluster_are_recorded_as_before():
  assert not {'ray_address', 'ray_workers'} & spec_lib.make('fed_avg').as_dict().keys()


def test_a_run_may_go_on_with_other_workers(tmp_path):
  before = spec_lib.make('fed_avg', dict(context='ray', ray_workers=2)).as_dict()
  after = spec_lib.make('fed_avg', dict(context='ray', ray_address='auto', ray_workers=9)).as_dict()
  assert before['ray_workers'] == 2 and after['ray_address'] == 'auto'
  manifest.check_same_run(tmp_path, before, after)
  with pytest.raises(manifest.MismatchError, match="--context is 'ray' there and 'local' here"):
    manifest.check_same_run(tmp_path, before, spec_lib.make('fed_avg').as_dict())
