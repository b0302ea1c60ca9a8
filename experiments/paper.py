"""Prints the tables and draws the figures of a paper, published values beside this package's.

  python -m experiments.paper --paper=lbgm
  python -m experiments.paper --paper=apf --only=figure_9 --data_dir=DIR --output_dir=runs

The results come from the files in experiments/results. With --data_dir, those that are missing are
made first, by `experiments.compare` with the preset of the exhibit, in --output_dir, and recorded
there. Without it, an exhibit shows what there is, and the command for the rest. With --scale=full,
presets of the papers' own scale are used where there are some; most need a GPU.

Writes PAPER.md and PAPER/NAME.png in --page_dir.
"""

from collections.abc import Sequence
import pathlib

from absl import app
from absl import flags

from experiments.papers import pages

_PAPER = flags.DEFINE_enum('paper', None, list(pages.PAPERS), 'The paper.', required=True)
_ONLY = flags.DEFINE_string('only', None, 'The name of one exhibit; all if not given.')
_SCALE = flags.DEFINE_enum(
  'scale', 'here', ['here', 'full'], "Runs that fit a small machine, or the paper's own scale."
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Folder with data sets, to run what is missing.')
_OUTPUT_DIR = flags.DEFINE_string('output_dir', 'runs', 'Folder for the output of these runs.')
_RESULTS_DIR = flags.DEFINE_string(
  'results_dir', str(pages.RESULTS), 'Folder with the results, and for those of new runs.'
)
_PAGE_DIR = flags.DEFINE_string(
  'page_dir', 'runs/papers', 'Folder for the page with tables and figures.'
)


def main(argv: Sequence[str]) -> None:
  del argv
  options = pages.Options(
    pathlib.Path(_RESULTS_DIR.value),
    None if _DATA_DIR.value is None else pathlib.Path(_DATA_DIR.value),
    pathlib.Path(_OUTPUT_DIR.value),
    _SCALE.value == 'full',
  )
  page = pathlib.Path(_PAGE_DIR.value) / f'{_PAPER.value}.md'
  try:
    print(pages.write(_PAPER.value, _ONLY.value, page, options))
  except pages.UnknownExhibitError as e:
    raise app.UsageError(f'--only: {e}') from e


if __name__ == '__main__':
  app.run(main)
