import ast
import importlib
import pathlib

from absl import flags
import pytest

from tests.cli import binaries

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLI = ROOT / 'tff_lowrank' / 'cli'
MODULES = [f'tff_lowrank.cli.{path.stem}' for path in sorted(CLI.glob('*.py'))]
LISTS = ('uplink_mbps', 'downlink_mbps', 'latency_ms')


def float_flags_of_all_binaries():
  for module in MODULES:
    importlib.import_module(module)
  ours = (n for n in flags.FLAGS if flags.FLAGS.find_module_defining_flag(n) in MODULES)
  found = [name for name in ours if flags.FLAGS[name].flag_type() == 'float']
  assert len(found) > 15
  return found


@pytest.mark.parametrize('text', ['nan', 'NaN', '-nan', 'inf', '-inf', 'Infinity', '1e999'])
def test_every_flag_of_floats_refuses_what_is_not_finite(text):
  for name in float_flags_of_all_binaries():
    with binaries.no_flags_set(), pytest.raises(flags.IllegalFlagValueError) as raised:
      flags.FLAGS(['binary', f'--{name}={text}'])
    assert f'--{name} must be a finite number, found {text}' in str(raised.value)


@pytest.mark.parametrize('text', ['nan', '9,nan', 'inf', '1,-inf'])
@pytest.mark.parametrize('name', LISTS)
def test_so_do_lists(name, text, tmp_path, capsys):
  assert binaries.status('compare', f'--{name}={text}', f'--output_dir={tmp_path}') == 2
  assert f'--{name} must be a finite number' in capsys.readouterr().err


def test_no_binary_defines_floats_otherwise():
  for path in CLI.glob('*.py'):
    calls = [node.attr for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.Attribute)]  # fmt: skip
    assert ('DEFINE_float' in calls) == (path.name == 'float_flags.py'), path


@pytest.mark.parametrize('text', ['1.5', '-0.1', 'x', ''])
def test_bounds_are_kept(text):
  with binaries.no_flags_set(), pytest.raises(flags.IllegalFlagValueError):
    flags.FLAGS(['binary', f'--dropout_rate={text}'])


@pytest.mark.parametrize('text, value', [('0.25', 0.25), ('own.module:rate', 'own.module:rate')])
def test_a_function_of_the_client(text, value):
  with binaries.no_flags_set():
    flags.FLAGS(['binary', f'--client_learning_rate={text}'])
    assert flags.FLAGS.client_learning_rate == value
  for refused in (f'--client_learning_rate=-{text}', f'--dropout_rate={text}:'):
    with binaries.no_flags_set(), pytest.raises(flags.IllegalFlagValueError):
      flags.FLAGS(['binary', refused])


def test_flags_belong_to_the_module_that_calls():
  owner = flags.FLAGS.find_module_defining_flag('dropout_rate')
  assert owner == 'tff_lowrank.cli.run_flags'
