import collections
import re

from absl import flags
import pytest

from tff_lowrank import methods
from tff_lowrank import settings
from tff_lowrank.cli import compare
from tff_lowrank.cli import entry
from tff_lowrank.cli import help as help_lib
from tff_lowrank.cli import main
from tff_lowrank.cli import train
from tff_lowrank.runs import saving
from tff_lowrank.runs import spec as spec_lib

BINARIES = [name for name in main.COMMANDS if name != 'doctor']


def text(binary):
  return help_lib.text(binary, main.name_of(binary), f'tff-lowrank {main.name_of(binary)}')


def groups(binary):
  """Title -> names of the flags under it."""
  found = {}
  for line in text(binary).splitlines():
    if title := re.fullmatch(r'(\S[^:]*):', line):
      listed = found.setdefault(title[1], [])
    elif name := re.match(r'  --(?:\[no\])?(\w+)', line):
      listed.append(name[1])
  return found


def test_every_setting_is_shown_once():
  shown = collections.Counter(name for listed in groups(train).values() for name in listed)
  expected = {*settings.of(spec_lib.RunSpec), *settings.of(saving.Saving), 'method', 'output_dir'}
  for record in methods.METHODS.values():
    expected |= {*record.setting_names}
  assert expected <= {*shown} and {*shown.values()} == {1}
  assert not {'methods', 'seeds', 'search', 'uplink_mbps'} & {*shown}


def test_groups_are_in_order_and_methods_share_theirs():
  found = groups(compare)
  titles = [*found]
  assert titles[:4] == ['Compare', 'Run', 'Data', 'Model']
  assert titles[-2:] == ['Saving', 'Network']
  assert all(re.match(r'Methods? \w', title) for title in titles[4:-2])
  assert found['Compare'][0] == 'methods' and {'seeds', 'output_dir'} <= {*found['Compare']}
  shared = found['Methods lbgm, lbgm_global, lbgm_shared']
  assert shared == ['lbgm_threshold', 'lbgm_granularity']
  assert found['Methods lbgm, lbgm_global'] == ['lbgm_vectors', 'lbgm_predictive']
  assert 'apf_control' in found['Method apf']
  assert 'apf_control' not in found['Methods apf, apf_partial_sync']


def test_flags_that_a_binary_refuses_are_left_out():
  assert 'seed' not in groups(compare)['Run'] and 'seed' in groups(train)['Run']
  for name in ('advise', 'gradient-space'):
    shown = {flag for listed in groups(main.binary(name)).values() for flag in listed}
    assert not shown & {'lbgm_threshold', 'uplink', 'patience', 'method'}


@pytest.mark.parametrize(
  'entry_of_flag',
  [
    '  --rounds=100\n      Training rounds.\n',
    '  --partition=TEXT\n',
    '  --data_dir=PATH\n',
    '  --patience=N\n',
    '  --straggler_deadline=NUMBER\n',
    '  --client_optimizer=sgd\n      Optimizer of the local steps. One of sgd, adam, ',
    '  --[no]keep_best\n      Also save the model of the best evaluation, as model_best.keras. Off '
    'by default.\n',
  ],
)
def test_entries(entry_of_flag, monkeypatch):
  monkeypatch.setenv('COLUMNS', '100')
  assert entry_of_flag in text(train)


def test_lists_have_their_defaults_as_they_are_given():
  assert '\n  --uplink_mbps=3\n' in text(compare)


@pytest.mark.parametrize('columns, width', [(60, 60), (250, 100)])
def test_wraps_at_the_terminal_s_width(monkeypatch, columns, width):
  monkeypatch.setenv('COLUMNS', str(columns))
  for name in BINARIES:
    lines = text(main.binary(name)).splitlines()
    assert max(len(line) for line in lines if not line.startswith(('  tff-', '    --'))) <= width


@pytest.mark.parametrize('argument', ['--help', '-help', '-h', '--helpshort'])
@pytest.mark.parametrize('name', BINARIES)
def test_help_of_each_binary(capsys, name, argument):
  with pytest.raises(SystemExit) as ended:
    entry.parse([f'tff-lowrank {name}', '--rounds=none', argument], main.binary(name))
  said = capsys.readouterr()
  assert ended.value.code == 0 and not said.err
  assert f'\n  tff-lowrank {name} --' in said.out
  assert ' '.join(said.out.split()).endswith('--helpfull also lists the flags of libraries.')


def test_examples_are_as_the_binary_was_run(capsys):
  with pytest.raises(SystemExit):
    entry.parse(['/somewhere/experiments/train.py', '--help'], train)
  assert '\n  python -m experiments.train --flagfile' in capsys.readouterr().out


def test_help_after_two_dashes_is_no_flag():
  assert help_lib.is_asked(['train', '--help']) and not help_lib.is_asked(['train', '--', '--help'])


def test_no_flag_of_ours_is_without_a_binary():
  shown = {name for binary in BINARIES for name in help_lib.flag_names(main.binary(binary))}
  by_module = flags.FLAGS.flags_by_module_dict()
  ours = {f.name for m, found in by_module.items() if m.startswith('tff_lowrank') for f in found}
  assert ours - shown == {'debug'}
