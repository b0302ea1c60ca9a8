from tff_lowrank import findings


def test_advice_is_told_where_there_is_one():
  assert str(findings.Finding('disk', findings.OK, 'large')) == 'ok       disk: large'
  full = findings.Finding('disk', findings.PROBLEM, 'full', 'Clear it.')
  assert str(full) == 'PROBLEM  disk: full. Clear it.'
