import sys
import types

import pytest

from tff_lowrank.cli import main


def run(monkeypatch, *arguments):
  """The exit status; None if the command just ends."""
  monkeypatch.setattr(sys, 'argv', ['/usr/bin/tff-lowrank', *arguments])
  try:
    return main.main()
  except SystemExit as e:
    return e.code


@pytest.mark.parametrize('name', main.COMMANDS)
def test_every_command_is_a_binary(name):
  binary = main.binary(name)
  assert callable(binary.run) and main.name_of(binary) == name
  assert f'\n  {name} ' in main.usage()


def test_the_binary_gets_the_other_arguments(monkeypatch):
  calls = []
  fake = types.SimpleNamespace(run=lambda: calls.append(list(sys.argv)))
  monkeypatch.setattr(main, 'binary', lambda name: fake)
  assert run(monkeypatch, 'gradient-space', '--rounds=3', 'x') is None
  assert calls == [['tff-lowrank gradient-space', '--rounds=3', 'x']]


def test_an_unknown_command(monkeypatch, capsys):
  assert run(monkeypatch, 'trian', '--rounds=3') == 2
  said = capsys.readouterr()
  assert not said.out and said.err == f"tff-lowrank has no command 'trian'.\n\n{main.usage()}\n"


@pytest.mark.parametrize('arguments', [(), ('help',), ('--help',), ('-h',)])
def test_no_command_lists_them(monkeypatch, capsys, arguments):
  assert run(monkeypatch, *arguments) is None
  assert capsys.readouterr().out == f'{main.usage()}\n'
