import sys

import pytest

from tff_lowrank import doctor as checks
from tff_lowrank.cli import doctor


def run(monkeypatch, *arguments, problem=0):
  """The exit status; None if the binary just ends."""
  monkeypatch.setattr(checks, 'main', lambda: print('checking') or problem)
  monkeypatch.setattr(sys, 'argv', ['tff-lowrank doctor', *arguments])
  try:
    return doctor.run()
  except SystemExit as e:
    return e.code


@pytest.mark.parametrize('problem', [0, 1])
def test_the_status_says_if_there_is_a_problem(monkeypatch, problem):
  assert run(monkeypatch, problem=problem) == problem


def test_help_checks_nothing(monkeypatch, capsys):
  assert run(monkeypatch, '--help') is None
  assert capsys.readouterr().out.startswith('Checks the installation')


def test_refuses_arguments(monkeypatch, capsys):
  assert run(monkeypatch, '--rounds=3') == 2
  said = capsys.readouterr()
  assert said.err == "Expected no flags, found ['--rounds=3'].\n" and not said.out
