import json

import pytest

from tff_lowrank.simulation import append_log
from tff_lowrank.simulation import manifest


def write(folder, round_num, content):
  path = manifest.path_of(folder, round_num)
  path.mkdir(parents=True)
  (path / manifest.FILE).write_bytes(content)


def sealed(round_num):
  content = dict(round=round_num, flags=dict(seed=1), logs={'log': [round_num, 'ab']})
  return manifest.seal(content)


def test_the_newest_is_first_and_damaged_ones_are_left_out(tmp_path):
  for round_num in (2, 10, 9):
    write(tmp_path, round_num, sealed(round_num))
  write(tmp_path, 11, sealed(11)[:-1])
  write(tmp_path, 12, sealed(12).replace(b'"round": 12', b'"round": 13'))
  write(tmp_path, 13, manifest.seal({'flags': 3}))
  write(tmp_path, 14, manifest.seal({'flags': {}, 'logs': {'log': [1, 2, 3]}}))
  write(tmp_path, 15, b'[' * 100_000)
  (tmp_path / '.new').mkdir()
  manifest.path_of(tmp_path, 16).mkdir()
  assert manifest.saved_rounds(tmp_path) == [2, 9, 10, *range(11, 17)]
  expected = [
    manifest.Manifest({'seed': 1}, {'log': append_log.Position(r, 'ab')}) for r in (10, 9, 2)
  ]
  assert list(manifest.newest_first(tmp_path)) == expected


def test_no_folder_has_none(tmp_path):
  assert list(manifest.newest_first(tmp_path / 'missing')) == []


def test_what_is_sealed_is_unsealed_and_nothing_else(tmp_path):
  assert manifest.unseal(manifest.seal({'a': [1, 'b']})) == {'a': [1, 'b']}
  other = json.loads(manifest.seal({'a': 1}))
  other['content']['a'] = 2
  with pytest.raises(manifest.DamagedError, match='its checksum differs'):
    manifest.unseal(json.dumps(other).encode())


def test_flags_that_differ_are_named_but_for_those_that_may(tmp_path):
  saved, given = dict(seed=1, rounds=3, method='lbgm'), dict(seed=2, rounds=4, context='local')
  with pytest.raises(
    manifest.MismatchError,
    match="--context is absent there and 'local' here, --method is 'lbgm' there and absent here, "
    '--seed is 1 there and 2 here',
  ):
    manifest.check_same_run(tmp_path, saved, given)
  manifest.check_same_run(tmp_path, saved, {**saved, 'rounds': 9})
