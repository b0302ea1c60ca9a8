import pytest

from tests.execution import clusters
from tff_lowrank.execution import cohort

pytestmark = clusters.needs_ray


def test_versions_tell_what_must_be_the_same():
  from tff_lowrank.execution import ray_worker

  found = ray_worker.versions()
  assert {'python', 'ray', 'tensorflow', 'tensorflow-federated', 'jaxlib', 'numpy'} <= set(found)
  assert found['tensorflow'].startswith('2.14')
  assert found == ray_worker.versions()


class UnpicklableError(Exception):
  def __reduce__(self):
    raise TypeError('It stays here.')


def test_errors_travel_with_their_causes():
  from tff_lowrank.execution import ray_worker

  try:
    try:
      try:
        raise FileNotFoundError(2, 'No such file', 'a.h5')
      except FileNotFoundError as e:
        raise UnpicklableError('of mine') from e
    except UnpicklableError as e:
      raise cohort.ClientError('Client 1 of 2 failed.') from e
  except cohort.ClientError as e:
    found = ray_worker.unpickled_error(ray_worker._pickled(e))
  assert isinstance(found, cohort.ClientError) and str(found) == 'Client 1 of 2 failed.'
  # What cannot be pickled is a text that says what it was.
  assert type(found.__cause__) is RuntimeError
  assert str(found.__cause__) == 'UnpicklableError: of mine'
  assert isinstance(found.__cause__.__cause__, FileNotFoundError)
  assert found.__cause__.__cause__.filename == 'a.h5'
  with pytest.raises(cohort.ClientError):
    raise found
