"""Runs the binaries' `main` inside the test's process."""

import contextlib
import importlib
from unittest import mock

from absl import app
from absl import flags
from absl.testing import flagsaver

from tff_lowrank import settings
from tff_lowrank.cli import entry
from tff_lowrank.cli import run_flags
from tff_lowrank.cli import setting_flags

# What was asked for cannot be.
USAGE_ERRORS = (app.UsageError, settings.SettingError)


@contextlib.contextmanager
def no_flags_set():
  """Within it no flag is set or given; afterwards they are as before, new ones gone."""
  registries = (run_flags._METHODS, setting_flags._DEFINED)
  with mock.patch.dict(registries[0]), mock.patch.dict(registries[1]), flagsaver.flagsaver():
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
      flags.FLAGS[name].present = 0
    yield


def run(name, *arguments):
  """As `python -m experiments.NAME ARGUMENTS`, but errors are raised; flags are restored."""
  binary = importlib.import_module(f'tff_lowrank.cli.{name}')
  with no_flags_set():
    for prepare in entry.BEFORE_PARSING:
      prepare(flags.FLAGS.read_flags_from_files(list(arguments), force_gnu=False))
    flags.FLAGS([name, *arguments])
    binary.main([name])


def status(name, *arguments):
  """The exit status of `python -m experiments.NAME ARGUMENTS`; errors not for users are raised."""
  binary = importlib.import_module(f'tff_lowrank.cli.{name}')
  with no_flags_set():
    try:
      entry.guarded(binary.main)(entry.parse([name, *arguments]))
    except SystemExit as e:
      return e.code
  return 0
