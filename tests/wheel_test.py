"""The wheel, installed and used away from the checkout."""

import configparser
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pandas as pd
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEMO = ROOT / 'experiments' / 'presets' / 'demo.flags'


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """The path of the wheel, built of a copy of the tree, in which building leaves files."""
  folder = tmp_path_factory.mktemp('tree')
  for name in ('pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, folder)
  for name in ('tff_lowrank', 'experiments'):
    shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
  build = 'from setuptools import build_meta; print(build_meta.build_wheel("."))'
  done = subprocess.run(
    [sys.executable, '-c', build], cwd=folder, capture_output=True, text=True, timeout=300
  )
  assert done.returncode == 0, done.stderr
  return folder / done.stdout.split()[-1]


def check_demo(command, folder, environment):
  """Runs the demo, of two rounds, in `folder`; it must load the package from there."""
  done = subprocess.run(
    [*command, 'compare', f'--flagfile={DEMO}', '--rounds=2', '--output_dir=demo'],
    cwd=folder, env=environment, capture_output=True, text=True, timeout=900,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert pd.read_csv(folder / 'demo' / 'table.csv')['rounds'].eq(2).all()
  assert (folder / 'demo' / 'report.html').exists()


def test_the_wheel_has_all_and_nothing_else(wheel):
  with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
    scripts = archive.read(next(n for n in names if n.endswith('entry_points.txt'))).decode()
  packed = {name for name in names if '.dist-info/' not in name}
  library = (ROOT / 'tff_lowrank').rglob('*')
  expected = {str(path.relative_to(ROOT)) for path in library if path.suffix in ('.py', '.typed')}
  assert packed == expected
  parsed = configparser.ConfigParser()
  parsed.read_string(scripts)
  assert dict(parsed['console_scripts']) == {'tff-lowrank': 'tff_lowrank.cli.main:main'}


def test_the_demo_runs_from_the_wheel(wheel, tmp_path):
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(tmp_path / 'installed')
  (tmp_path / 'elsewhere').mkdir()
  environment = os.environ | dict(PYTHONPATH=str(tmp_path / 'installed'))
  where = subprocess.run(
    [sys.executable, '-c', 'import tff_lowrank; print(tff_lowrank.__file__)'],
    cwd=tmp_path / 'elsewhere', env=environment, capture_output=True, text=True, check=True,
  )  # fmt: skip
  assert where.stdout.startswith(str(tmp_path / 'installed'))
  command = [sys.executable, '-m', 'tff_lowrank.cli.main']
  check_demo(command, tmp_path / 'elsewhere', environment)


@pytest.mark.slow
def test_the_demo_runs_in_a_fresh_environment_of_the_lock(wheel, tmp_path):
  python = tmp_path / 'venv' / 'bin' / 'python'
  install = [str(python), '-m', 'pip', 'install', '--no-deps']
  for command in (
    [sys.executable, '-m', 'venv', str(tmp_path / 'venv')],
    [*install, '--require-hashes', '-r', str(ROOT / 'requirements.lock')],
    [*install, str(wheel)],
  ):
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
  environment = {name: x for name, x in os.environ.items() if name != 'PYTHONPATH'}
  (tmp_path / 'elsewhere').mkdir()
  check_demo([str(python.parent / 'tff-lowrank')], tmp_path / 'elsewhere', environment)
