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
import dataclasses
import pathlib

from absl import app
from absl import flags

from experiments.papers import apf
from experiments.papers import exhibits
from experiments.papers import fedpara
from experiments.papers import figures
from experiments.papers import lbgm
from experiments.papers import results
from tff_lowrank.reports import gradient_plots

AnyExhibit = exhibits.Exhibit | exhibits.Computed | exhibits.Study
PAPERS: dict[str, Sequence[AnyExhibit]] = dict(
  lbgm=lbgm.EXHIBITS, apf=apf.EXHIBITS, fedpara=fedpara.EXHIBITS
)
RESULTS = pathlib.Path(__file__).resolve().parent / 'results'

_PAPER = flags.DEFINE_enum('paper', None, list(PAPERS), 'The paper.', required=True)
_ONLY = flags.DEFINE_string('only', None, 'The name of one exhibit; all if not given.')
_SCALE = flags.DEFINE_enum(
  'scale', 'here', ['here', 'full'], "Runs that fit a small machine, or the paper's own scale."
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Folder with data sets, to run what is missing.')
_OUTPUT_DIR = flags.DEFINE_string('output_dir', 'runs', 'Folder for the output of these runs.')
_RESULTS_DIR = flags.DEFINE_string(
  'results_dir', str(RESULTS), 'Folder with the results, and for those of new runs.'
)
_PAGE_DIR = flags.DEFINE_string(
  'page_dir', 'runs/papers', 'Folder for the page with tables and figures.'
)


@dataclasses.dataclass(frozen=True)
class Options:
  """Where results come from.

  results_dir: the folder with the results, and for those of new runs.
  data_dir: the folder with data sets, to run what is missing; None to run nothing.
  output_dir: the folder for the output of these runs.
  is_full: whether to use the presets of the papers' own scale.
  """

  results_dir: pathlib.Path = RESULTS
  data_dir: pathlib.Path | None = None
  output_dir: pathlib.Path = pathlib.Path('runs')
  is_full: bool = False


def _heading(exhibit: AnyExhibit) -> str:
  return exhibit.name.replace('_', ' ').capitalize()


def _missing(exhibit: exhibits.Exhibit, found: results.Results | None) -> list[str]:
  """The methods of an exhibit without results."""
  known = set() if found is None else set(found.table['method'])
  return [method for method in exhibit.methods if method not in known]


def _from_runs(exhibit: exhibits.Exhibit, page: pathlib.Path, options: Options) -> str:
  """The parts of an exhibit that is made from runs: table, figure, commands."""
  preset = exhibit.full if options.is_full and exhibit.full else exhibit.preset
  path = options.results_dir / f'{preset}.csv'
  first = exhibit.rows[0].method
  found = results.read(path, first)
  missing = _missing(exhibit, found)
  if missing and options.data_dir is not None:
    results.run(preset, missing, options.data_dir, options.output_dir / preset, path)
    found = results.read(path, first)
    missing = _missing(exhibit, found)
  parts = []
  if found is not None:
    parts.append(exhibits.to_markdown(exhibits.table(exhibit, found.table)))
    picture = page.with_suffix('') / f'{exhibit.name}.png'
    if figures.draw(exhibit, found, picture):
      parts.append(f'![{_heading(exhibit)}]({picture.parent.name}/{picture.name})')
  if missing:
    listed = ', '.join(f'`{method}`' for method in missing)
    parts.append(f'Not run: {listed}.')
  command = ' '.join(results.command('compare', preset, exhibit.methods))
  parts.append(f'Runs: `{command} --data_dir=DIR --output_dir=DIR`.')
  return '\n\n'.join(parts)


def _from_study(study: exhibits.Study, page: pathlib.Path, options: Options) -> str:
  """The parts of a study of gradients: table, figures, command."""
  folder = options.results_dir / study.preset
  if not folder.exists() and options.data_dir is not None:
    output = options.output_dir / study.preset
    results.run_study(study.preset, options.data_dir, output, folder)
  parts = []
  if folder.exists():
    parts.append(gradient_plots.to_markdown(folder).strip())
    for picture in gradient_plots.plot(folder, page.with_suffix('') / study.name):
      shown = picture.relative_to(page.parent)
      parts.append(f'![{_heading(study)}, {picture.stem.replace("_", " ")}]({shown})')
  else:
    parts.append('Not run.')
  command = ' '.join(results.command('gradient_space', study.preset))
  return '\n\n'.join([*parts, f'Runs: `{command} --data_dir=DIR --output_dir=DIR`.'])


def _to_markdown(exhibit: AnyExhibit, page: pathlib.Path, options: Options) -> str:
  """The section of an exhibit; draws its figure beside `page`."""
  if isinstance(exhibit, exhibits.Computed):
    body = exhibits.to_markdown(exhibit.table())
  elif isinstance(exhibit, exhibits.Study):
    body = _from_study(exhibit, page, options)
  else:
    body = _from_runs(exhibit, page, options)
  parts = [f'## {_heading(exhibit)}\n\n{exhibit.title}.', body, exhibit.note]
  return '\n\n'.join(filter(None, parts))


def write(paper: str, only: str | None, page: pathlib.Path, options: Options) -> str:
  """Writes the page of a paper and its figures; returns its text.

  Raises UsageError if the paper has no exhibit named `only`.
  """
  chosen = [exhibit for exhibit in PAPERS[paper] if only in (None, exhibit.name)]
  if not chosen:
    names = ', '.join(exhibit.name for exhibit in PAPERS[paper])
    raise app.UsageError(f'--only: expected one of {names}, found {only!r}.')
  flag = f' --only={only}' if only else ''
  head = f'Made by `python -m experiments.paper --paper={paper}{flag}`.'
  text = '\n\n'.join([head, *(_to_markdown(exhibit, page, options) for exhibit in chosen)]) + '\n'
  page.parent.mkdir(parents=True, exist_ok=True)
  page.write_text(text)
  return text


def main(argv: Sequence[str]) -> None:
  del argv
  options = Options(
    pathlib.Path(_RESULTS_DIR.value),
    None if _DATA_DIR.value is None else pathlib.Path(_DATA_DIR.value),
    pathlib.Path(_OUTPUT_DIR.value),
    _SCALE.value == 'full',
  )
  page = pathlib.Path(_PAGE_DIR.value) / f'{_PAPER.value}.md'
  print(write(_PAPER.value, _ONLY.value, page, options))


if __name__ == '__main__':
  app.run(main)
