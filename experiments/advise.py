"""`python -m experiments.advise`: see `tff_lowrank.cli.advise`."""

from tff_lowrank.cli import advise

if __name__ == '__main__':
  advise.run()
