"""Texts that users write: codecs, partitions, flags, methods and presets, right or wrong."""

import io
import sys

from absl import flags
from absl.testing import flagsaver
from hypothesis import strategies as st
import numpy as np
import pytest

from tests.cli import binaries
from tests.fuzz import fuzzing
from tff_lowrank import codecs
from tff_lowrank import methods
from tff_lowrank import settings
from tff_lowrank.cli import compare
from tff_lowrank.cli import entry
from tff_lowrank.cli import run_flags
from tff_lowrank.cli import train
from tff_lowrank.codecs import grammar
from tff_lowrank.datasets import partition
from tff_lowrank.reports import run_files
from tff_lowrank.runs import runner
from tff_lowrank.runs import spec as spec_lib

NUMBERS = ('0', '1', '-1', '3', '0.1', '1.5', '1e-9', '1e400', '-1e400', 'nan', 'inf', '1j',
           '9' * 30, '9' * 5000, '0x1f', '1_0', '\uff12', '2**9')  # fmt: skip
WORDS = (
  '',
  'None',
  'True',
  'tensor',
  'model',
  'max',
  '"a"',
  '...',
  'x',
  '\0',
  '\ud800',
  'é',
  '#',
  '|',
)

CODEC_TOKENS = (*grammar.CODECS, *'(),=-+*.:[]{}\n ', *NUMBERS, *WORDS, 'amount', 'inner', 'lambda')
CODECS = (
  '-' * 999 + '1', '-' * 100_000 + '1', '(' * 200, '(' * 5000, 'top_k' + '()' * 400,
  'a.' * 400 + 'b', 'error_feedback(' * 60 + 'top_k' + ')' * 60,
  'top_k(\0)', 'top_k\ud800', 'top_k(-identity)',
  'top_k(9e999)', 'look_back(top_k,nan)', f'top_k({"9" * 30})',
)  # fmt: skip


def joined(tokens, max_size=12):
  return st.one_of(
    st.lists(st.sampled_from(tokens), max_size=max_size).map(''.join), st.text(max_size=20)
  )


@fuzzing.AMOUNTS
def test_a_codec_or_a_value_error(examples):
  def check(text):
    try:
      codec = codecs.parse(text)
    except ValueError as e:
      assert str(e)
      return
    assert codecs.parse(str(codec)) == codec

  fuzzing.fuzz(examples, joined(CODEC_TOKENS), check, CODECS)


LABELS = np.arange(40) % 4


@fuzzing.AMOUNTS
def test_a_partition_or_a_value_error(examples):
  def check(text):
    try:
      parts = partition.parse(text)(LABELS, 6, 1)
    except ValueError as e:
      assert str(e)
      return
    assert (
      len(parts) == 6 and sorted(np.concatenate(parts)) == list(range(40)) and all(map(len, parts))
    )

  tokens = ('iid', 'shards', 'dirichlet', ':', ' ', 'natural', *NUMBERS, *WORDS)
  corpus = ('dirichlet:1e-320', 'dirichlet:1e-10', 'dirichlet:1e-4', 'dirichlet:1e300', 'shards:1')
  fuzzing.fuzz(examples, joined(tokens, 4), check, (*corpus, f'shards:{"9" * 30}'))


class Started(Exception):  # noqa: N818 (it is what is hoped for)
  """All flags were accepted."""


@pytest.fixture
def outcome(monkeypatch):
  """A function from a binary and its arguments to what became of them: specs, or a sentence."""
  found = []

  def start(spec, *arguments):
    found.append(spec)
    raise Started

  monkeypatch.setattr(runner, 'train', start)

  def run(binary, *arguments):
    found.clear()
    # As Python's own, which pytest's is not.
    written = io.TextIOWrapper(io.BytesIO(), 'utf-8', errors='backslashreplace')
    monkeypatch.setattr(sys, 'stderr', written)
    with flagsaver.flagsaver():
      flags.FLAGS.unparse_flags()
      for name in flags.FLAGS:
        flags.FLAGS[name].present = 0
      try:
        entry.guarded(binary.main)(entry.parse(['binary', *arguments]))
      except Started:
        return found[0]
      except SystemExit as e:
        written.flush()
        said = written.buffer.getvalue().decode()
        assert e.code == entry.USAGE and said.strip() and 'Traceback' not in said
        return said
    raise AssertionError(f'{arguments} neither start nor are refused.')

  return run


OWN = (name for record in methods.METHODS.values() for name in record.setting_names)
RUN_FLAGS = tuple(sorted({'method', *settings.of(spec_lib.RunSpec), *OWN} - {'seed', 'data_dir'}))
VALUES = (*NUMBERS, *WORDS, 'lbgm', 'apf', 'pfedpara', 'scaffold', 'shards:2', 'dirichlet:0.5',
          'disk', 'adam', 'top_k(0.1)', 'error_feedback(top_k)', 'one_round', 'permanent',
          'mnist')  # fmt: skip


def arguments_of(names):
  flag = st.tuples(st.sampled_from(('--', '-', '--no', '')), st.sampled_from(names))
  value = st.one_of(st.just(''), st.sampled_from(VALUES).map('={}'.format))
  return st.lists(st.builds(lambda f, v: f[0] + f[1] + v, flag, value), max_size=4)


def is_sound(spec):
  numbers = [value for value in vars(spec).values() if isinstance(value, (int, float))]
  return all(0 <= n < 2**31 if isinstance(n, int) else np.isfinite(n) and n >= 0 for n in numbers)


@fuzzing.AMOUNTS
def test_flags_make_a_spec_or_one_sentence(examples, outcome):
  def check(arguments):
    # After `--` or a bare word all are words, which are refused.
    found = outcome(train, '--output_dir=x', *arguments)
    assert isinstance(found, str) or is_sound(found)

  corpus = [
    [f'--{name}=nan'] for name in ('client_learning_rate', 'dropout_rate', 'lbgm_threshold')
  ]
  corpus += [['--server_learning_rate=inf'], [f'--seed={"9" * 30}'], [f'--batch_size={2**31}']]
  corpus += [['--output_dir='], ['--rounds'], ['--flagfile=/nowhere'], ['--flagfile=/'], ['word']]
  corpus += [
    ['--method=apf', '--apf_stability_threshold=nan'],
    ['--undefok=x'],
    ['--', '--rounds=3'],
  ]
  fuzzing.fuzz(examples, arguments_of((*RUN_FLAGS, 'flagfile', 'undefok', 'x')), check, corpus)


@fuzzing.AMOUNTS
def test_methods_make_runs_or_one_sentence(examples, outcome):
  def check(text):
    found = outcome(compare, '--output_dir=x', f'--methods={text}')
    assert isinstance(found, str) or is_sound(found)
    name = run_files.run_name(text, 3)
    assert name.endswith('-seed3') and not set(name) & set('/\\|\n\0<>&')

  tokens = (
    *methods.METHODS,
    ',',
    ':',
    '=',
    '(',
    ')',
    '/',
    '..',
    *RUN_FLAGS,
    'data_dir',
    *VALUES,
  )
  corpus = ('', 'lbgm:data_dir=../../x', 'fed_avg:uplink=top_k(0.1,qsgd(7))', 'fed_avg:rounds=nan',
            'fed_avg:uplink=' + '(' * 300)  # fmt: skip
  fuzzing.fuzz(examples, joined(tokens, 8), check, corpus)


@fuzzing.AMOUNTS
def test_presets_make_a_spec_or_one_sentence(examples, outcome, tmp_path):
  path = tmp_path / 'preset.flags'

  def check(content):
    path.write_bytes(content)
    found = outcome(train, '--output_dir=x', f'--flagfile={path}')
    assert isinstance(found, str) or is_sound(found)

  lines = arguments_of((*RUN_FLAGS, 'undefok')).map('\n'.join)
  encoded = lines.map(lambda text: text.encode('utf-8', 'surrogatepass'))
  corpus = (
    b'',
    b'\xff\xfe',
    b'--rounds=3\n--rounds',
    b'--flagfile=' + bytes(path),
    b'# x\n--seed=1',
  )
  fuzzing.fuzz(examples, st.one_of(encoded, st.binary(max_size=60)), check, corpus)


def test_overrides_are_under_the_flags_own_checks():
  with pytest.raises(binaries.USAGE_ERRORS, match='--rounds'):
    run_flags.parse_value('rounds', '0')
