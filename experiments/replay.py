"""`python -m experiments.replay`: see `tff_lowrank.cli.replay`."""

from tff_lowrank.cli import replay

if __name__ == '__main__':
  replay.run()
