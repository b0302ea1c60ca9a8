"""Checks the installation: see `tff_lowrank.doctor`."""

import inspect
import sys

from tff_lowrank import doctor
from tff_lowrank.cli import help as help_lib


def run() -> None:
  """Runs the checks; the exit status is 1 if there is a problem."""
  if help_lib.is_asked(sys.argv):
    print(inspect.getdoc(doctor))
  elif sys.argv[1:]:
    print(f'Expected no flags, found {sys.argv[1:]}.', file=sys.stderr)
    sys.exit(2)
  else:
    sys.exit(doctor.main())
