"""Runs the binaries' `main` inside the test's process."""

import importlib

from absl import flags
from absl.testing import flagsaver


def run(name, *arguments):
  """As `python -m experiments.NAME ARGUMENTS`; flags are restored afterwards."""
  binary = importlib.import_module(f'experiments.{name}')
  with flagsaver.flagsaver():
    flags.FLAGS.unparse_flags()
    flags.FLAGS([name, *arguments])
    for flag in flags.FLAGS:
      flags.FLAGS[flag].present = sum(
        argument.split('=')[0].lstrip('-') == flag for argument in arguments
      )
    binary.main([name])
