"""The page of a paper: the tables and figures of its exhibits."""

from collections.abc import Sequence
import dataclasses
import pathlib

from experiments.papers import apf
from experiments.papers import exhibits
from experiments.papers import fedpara
from experiments.papers import figures
from experiments.papers import lbgm
from experiments.papers import results
from tff_lowrank.reports import gradient_plots
from tff_lowrank.reports import table as table_lib

AnyExhibit = exhibits.Exhibit | exhibits.Computed | exhibits.Study
PAPERS: dict[str, Sequence[AnyExhibit]] = dict(
  lbgm=lbgm.EXHIBITS, apf=apf.EXHIBITS, fedpara=fedpara.EXHIBITS
)
RESULTS = pathlib.Path(__file__).resolve().parents[1] / 'results'


class UnknownExhibitError(ValueError):
  """A paper has no exhibit of that name."""


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
    parts.append(table_lib.markdown(exhibits.table(exhibit, found.table)).strip())
    picture = page.with_suffix('') / f'{exhibit.name}.png'
    if figures.draw(exhibit, found, picture):
      parts.append(f'![{_heading(exhibit)}]({picture.relative_to(page.parent)})')
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
      about = f'{_heading(study)}, {picture.stem.replace("_", " ")}'
      parts.append(f'![{about}]({picture.relative_to(page.parent)})')
  else:
    parts.append('Not run.')
  command = ' '.join(results.command('gradient_space', study.preset))
  return '\n\n'.join([*parts, f'Runs: `{command} --data_dir=DIR --output_dir=DIR`.'])


def _to_markdown(exhibit: AnyExhibit, page: pathlib.Path, options: Options) -> str:
  """The section of an exhibit; draws its figure beside `page`."""
  if isinstance(exhibit, exhibits.Computed):
    body = table_lib.markdown(exhibit.table()).strip()
  elif isinstance(exhibit, exhibits.Study):
    body = _from_study(exhibit, page, options)
  else:
    body = _from_runs(exhibit, page, options)
  parts = [f'## {_heading(exhibit)}\n\n{exhibit.title}.', body, exhibit.note]
  return '\n\n'.join(filter(None, parts))


def write(paper: str, only: str | None, page: pathlib.Path, options: Options) -> str:
  """Writes the page of a paper and its figures; returns its text.

  Raises UnknownExhibitError if the paper has no exhibit named `only`.
  """
  chosen = [exhibit for exhibit in PAPERS[paper] if only in (None, exhibit.name)]
  if not chosen:
    names = ', '.join(exhibit.name for exhibit in PAPERS[paper])
    raise UnknownExhibitError(f'Expected one of the exhibits {names}, found {only!r}.')
  flag = f' --only={only}' if only else ''
  head = f'Made by `python -m experiments.paper --paper={paper}{flag}`.'
  text = '\n\n'.join([head, *(_to_markdown(exhibit, page, options) for exhibit in chosen)]) + '\n'
  page.parent.mkdir(parents=True, exist_ok=True)
  page.write_text(text)
  return text
