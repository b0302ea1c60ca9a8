"""Checks an installation: see `tff_lowrank.doctor`."""

import sys

from tff_lowrank import doctor


def run() -> None:
  """Runs the checks; the exit status is 1 if there is a problem."""
  sys.exit(doctor.main())
