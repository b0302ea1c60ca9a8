"""Whatever can be wrong on the way in: one sentence, exit status 2, and nothing trained."""

import gzip
import json
import shutil

import numpy as np
import pytest

from tests.cli import binaries
from tff_lowrank import client_state
from tff_lowrank.cli import entry
from tff_lowrank.datasets import cifar
from tff_lowrank.datasets import mnist
from tff_lowrank.simulation import folder_lock
from tff_lowrank.simulation import manifest

LBGM = ('--num_clients=4', '--clients_per_round=2', '--batch_size=64', '--rounds=3',
        '--checkpoint_every=2', '--method=lbgm', '--client_memory=disk')  # fmt: skip


def check(capsys, binary, arguments, message):
  """One sentence and status 2; with --debug the error itself."""
  capsys.readouterr()
  assert binaries.status(binary, *arguments) == entry.USAGE
  said = capsys.readouterr().err
  assert message in said and 'Traceback' not in said
  sentence, hint = said.strip().rsplit('\n', 1)
  assert hint in ('Pass --debug for the traceback.', 'Pass --help for all flags.')
  warned = [line for line in sentence.splitlines() if 'trying the previous one' in line]
  assert len(sentence.splitlines()) == 1 + len(warned)
  with pytest.raises(Exception) as raised:
    binaries.status(binary, '--debug', *arguments)
  assert message in str(raised.value)


# Flags of train, and a part of the sentence that they get.
FLAGS = [
  ('--rounds=0', 'flag --rounds=0: 0 is not a positive integer'),
  ('--rounds=x', 'flag --rounds=x: '),
  ('--rounds=1e3', 'flag --rounds=1e3: '),
  ('--rounds', 'Missing value for flag'),
  (f'--rounds={2**31}', 'rounds must be at most 2147483647, found 2147483648'),
  (f'--seed={10**12}', 'seed must be at most 2147483647'),
  ('--seed=-1', 'flag --seed=-1: '),
  ('--task=imagenet', "task: `name` must be one of 'digits', "),
  ('--method=sgd', 'method must be one of fed_avg, '),
  ('--roundz=3', "Unknown command line flag 'roundz'. Did you mean: rounds"),
  ('word', "Expected flags only, found ['word']"),
  ('--output_dir=', '--output_dir: expected a folder, found an empty name'),
  ('--client_learning_rate=nan', '--client_learning_rate must be a finite number, found nan'),
  ('--server_learning_rate=inf', '--server_learning_rate must be a finite number, found inf'),
  ('--client_learning_rate=-1', 'flag --client_learning_rate=-1: '),
  ('--dropout_rate=1.5', 'flag --dropout_rate=1.5: '),
  ('--dropout_rate=nan', '--dropout_rate must be a finite number'),
  ('--straggler_deadline=0', 'straggler_deadline must be above 0'),
  ('--server_momentum=1', 'server_momentum must be below 1, found 1'),
  ('--server_optimizer=adam --server_momentum=0.5', 'has no effect with server_optimizer=adam'),
  ('--clients_per_round=101', 'clients_per_round must be at most num_clients=100, found 101'),
  ('--num_clients=1438', '`num_clients` must be at most the number of examples, 1437, found 1438'),
  ('--partition=shards:0', 'partition: A partition must be'),
  ('--partition=shards:1 --num_clients=9 --clients_per_round=1', 'cannot have all 10 classes'),
  ('--partition=dirichlet:1e-300', 'partition: A partition must be'),
  ('--data_dir=x', 'data_dir has no effect with task=digits'),
  ('--uplink=zip', "uplink: In the codec 'zip': expected one of identity"),
  ('--uplink=error_feedback(sign_sgd)', 'error_feedback cannot be around sign_sgd'),
  ('--uplink=top_k(2.0)', 'uplink: '),
  ('--uplink=' + '(' * 2000, 'uplink: Expected a codec of at most 1000 characters, found 2000'),
  ('--downlink=cmfl', 'downlink: '),
  ('--method=lbgm_shared --uplink=top_k', 'uplink=top_k has no effect with method=lbgm_shared'),
  ('--method=apf --downlink=top_k', 'downlink=top_k has no effect with method=apf'),
  ('--lbgm_threshold=0.3', '--lbgm_threshold has no effect with fed_avg'),
  ('--method=lbgm --lbgm_threshold=2', 'flag --lbgm_threshold=2: '),
  ('--method=lbgm --lbgm_threshold=nan', '--lbgm_threshold must be a finite number'),
  ('--method=apf --apf_ema_decay=1', 'apf_ema_decay must be below 1, found 1'),
  ('--fedpara_gamma=0.5', '--fedpara_gamma has no effect with --model_family=original'),
  ('--method=fedpara --fedpara_head_rank=4', 'The model of digits takes no `head_rank`'),
  ('--method=fedpara --model_family=low_rank', 'contradicts method=fedpara'),
  ('--client_test_fraction=1', 'client_test_fraction must be below 1'),
  ('--method=fed_per', 'as client_test_fraction=0.2'),
  ('--method=scaffold --client_optimizer=adam', 'adam does not work with SCAFFOLD'),
  ('--method=fed_dyn --uplink=cmfl', 'excludes whole clients from a round'),
  ('--checkpoint_every=0', 'flag --checkpoint_every=0: '),
  ('--keep_checkpoints=0', 'flag --keep_checkpoints=0: '),
  ('--client_memory=tape', 'flag --client_memory=tape: '),
  ('--client_memory_cap_mb=-1', 'flag --client_memory_cap_mb=-1: '),
]


@pytest.mark.parametrize('flags, message', FLAGS, ids=lambda text: text[:50])
def test_flags(tmp_path, capsys, flags, message):
  check(capsys, 'train', [f'--output_dir={tmp_path / "run"}', *flags.split()], message)
  assert not (tmp_path / 'run' / 'metrics.csv').exists()


def test_a_missing_output_dir(capsys):
  check(capsys, 'train', [], '--output_dir')


METHODS = [
  ('--methods=', "--methods: expected some of fed_avg, apf"),
  ('--methods=fed_avg,', "found ''"),
  ('--methods=fed_avg,fed_avg', 'expected different methods'),
  ('--methods=fed_avg:rounds', "expected FLAG=VALUE in 'fed_avg:rounds', found 'rounds'"),
  ('--methods=fed_avg:rounds=0', '--rounds: '),
  ('--methods=fed_avg:client_learning_rate=nan', '--client_learning_rate must be a finite'),
  ('--methods=fed_avg:output_dir=x', "a setting of a run with fed_avg, found 'output_dir'"),
  ('--methods=fed_avg:lbgm_threshold=0.1', 'lbgm_threshold has no effect with fed_avg'),
  ('--seeds=', '--seeds: expected whole numbers separated by commas'),
  ('--seeds=1,-2', '--seeds: expected whole numbers separated by commas'),
  (f'--seeds={10**12}', 'seed must be at most'),
  ('--seed=3', '--seed has no effect here; use --seeds'),
]  # fmt: skip


@pytest.mark.parametrize('flags, message', METHODS)
def test_comparisons(tmp_path, capsys, flags, message):
  check(
    capsys, 'compare', [f'--output_dir={tmp_path / "runs"}', '--methods=fed_avg', flags], message
  )
  assert not (tmp_path / 'runs').exists()


PRESETS = [
  (b'--rounds=3\n--roundz=4\n', "Unknown command line flag 'roundz'"),
  (b'--rounds=many\n', 'flag --rounds=many: '),
  (b'\xff\xfe--rounds=3\n', "codec can't decode byte 0xff"),
  (b'--flagfile=/nowhere/x.flags\n', '/nowhere/x.flags'),
  (b'rounds 3\n', "Expected flags only, found ['rounds 3']"),
]


@pytest.mark.parametrize('content, message', PRESETS)
def test_presets(tmp_path, capsys, content, message):
  path = tmp_path / 'preset.flags'
  path.write_bytes(content)
  check(capsys, 'train', [f'--output_dir={tmp_path / "run"}', f'--flagfile={path}'], message)
  assert not (tmp_path / 'run').exists()


def test_presets_that_are_none(tmp_path, capsys):
  for path in (tmp_path / 'missing.flags', tmp_path):
    check(capsys, 'train', ['--output_dir=x', f'--flagfile={path}'], str(path))


def idx(array, code=8):
  header = bytes([0, 0, code, array.ndim]) + np.array(array.shape, '>u4').tobytes()
  return header + array.astype(np.uint8).tobytes()


def write_mnist(folder):
  for name in mnist.FILES:
    shape = (12, 28, 28) if 'images' in name else (12,)
    (folder / name).write_bytes(gzip.compress(idx(np.zeros(shape))))


IMAGES, LABELS = mnist.FILES[:2]
MNIST = [
  (IMAGES, lambda data: None, f'lacks {IMAGES}'),
  (IMAGES, lambda data: data[:-9], f'{IMAGES}: expected a complete gzip file'),
  (IMAGES, lambda data: data[:12] + b'\xff' * 9 + data[21:], f'{IMAGES}: expected a complete gzip'),
  (IMAGES, lambda data: b'<html>', f'{IMAGES}: expected a complete gzip file'),
  (IMAGES, lambda data: gzip.compress(idx(np.zeros(3), 9)), 'expected an idx file of unsigned'),
  (IMAGES, lambda data: gzip.compress(idx(np.zeros((12, 28, 28)))[:-1]), 'expected 9408 elements'),
  (IMAGES, lambda data: gzip.compress(idx(np.zeros((12, 27, 28)))), 'found [12, 27, 28] and [12]'),
  (IMAGES, lambda data: gzip.compress(idx(np.zeros((0, 28, 28)))), 'found [0, 28, 28] and [12]'),
  (LABELS, lambda data: gzip.compress(idx(np.zeros(11))), 'found [12, 28, 28] and [11]'),
  (LABELS, lambda data: gzip.compress(idx(np.full(12, 10))), 'expected labels 0 to 9, found 10'),
]


@pytest.mark.parametrize('name, damage, message', MNIST)
def test_mnist_files(tmp_path, capsys, name, damage, message):
  write_mnist(tmp_path)
  content = damage((tmp_path / name).read_bytes())
  (tmp_path / name).unlink()
  if content is not None:
    (tmp_path / name).write_bytes(content)
  arguments = ['--task=mnist', f'--data_dir={tmp_path}', f'--output_dir={tmp_path / "run"}']
  check(capsys, 'train', arguments, message)
  assert not (tmp_path / 'run' / 'metrics.csv').exists()


BINARY = cifar.VERSIONS['cifar10'][0]
CIFAR = [
  (BINARY.test_file, bytes(3072), f'{BINARY.test_file}: expected whole records of 3073 bytes'),
  (BINARY.test_file, b'\x0b' + bytes(3072), 'expected labels 0 to 9, found 11'),
  (BINARY.test_file, b'', 'expected whole records'),
  (BINARY.archive, gzip.compress(b'x' * 600), f'{BINARY.archive}: expected a complete tar archive'),
]


@pytest.mark.parametrize('name, content, message', CIFAR, ids=range(len(CIFAR)))
def test_cifar_files(tmp_path, capsys, name, content, message):
  if name != BINARY.archive:
    for other in BINARY.files:
      (tmp_path / other).write_bytes(bytes(3073))
  (tmp_path / name).write_bytes(content)
  arguments = ['--task=cifar10', f'--data_dir={tmp_path}', f'--output_dir={tmp_path / "run"}']
  check(capsys, 'train', arguments, message)


@pytest.mark.parametrize('task', ['mnist', 'cifar10'])
def test_a_data_dir_that_is_none(tmp_path, capsys, task):
  (tmp_path / 'file').write_text('')
  for path in (tmp_path / 'missing', tmp_path / 'file'):
    arguments = [f'--task={task}', f'--data_dir={path}', f'--output_dir={tmp_path / "run"}']
    check(capsys, 'train', arguments, f'{path} lacks')


@pytest.fixture(scope='module')
def complete(tmp_path_factory):
  """A run of 3 rounds, with checkpoints of rounds 2 and 3."""
  folder = tmp_path_factory.mktemp('complete')
  binaries.run('train', *LBGM, f'--output_dir={folder}')
  return folder


def both(folder):
  return sorted((folder / 'checkpoints').glob('round_*'))


def damage_checkpoints(folder):
  for path in both(folder):
    (path / 'state.safetensors').write_bytes(b'')


def other_version(folder):
  for path in both(folder):
    content = json.loads((path / 'checkpoint.json').read_text())['content']
    (path / 'checkpoint.json').write_bytes(manifest.seal(content | dict(version='9.9')))


def edit_metrics(folder):
  path = folder / 'metrics.csv'
  path.write_text(path.read_text().replace('2', '3', 1))


def other_memory(folder):
  shutil.rmtree(folder / 'client_memory')
  client_state.LmdbStore(np.zeros(3), folder / 'client_memory').close()


def memory_of_another_run(folder):
  binaries.run('train', *LBGM, '--seed=2', f'--output_dir={folder.with_name("another")}')
  shutil.rmtree(folder / 'client_memory')
  shutil.copytree(folder.with_name('another') / 'client_memory', folder / 'client_memory')


def no_memory(folder):
  shutil.rmtree(folder / 'client_memory')


def damage_memory(folder):
  (folder / 'client_memory' / 'data.mdb').write_bytes(b'x' * 100_000)


def no_checkpoints(folder):
  shutil.rmtree(folder / 'checkpoints')


def no_record_and_no_checkpoints(folder):
  no_checkpoints(folder)
  (folder / 'run.json').write_text('{"flags": 3')


RUN_FOLDERS = [
  (lambda folder: None, ['--seed=2'], 'another run: --seed is 1 there and 2 here'),
  (lambda folder: None, ['--rounds=2'], 'has 3 rounds already, more than --rounds=2'),
  (damage_checkpoints, ['--rounds=4'], 'state.safetensors is damaged: 0 bytes instead of'),
  (other_version, ['--rounds=4'], 'expected checkpoints of version'),
  (edit_metrics, ['--rounds=4'], 'metrics.csv does not start with the content that was'),
  (other_memory, ['--rounds=4'], 'client_memory: expected client state of'),
  (no_memory, ['--rounds=4'], 'client_memory: expected client state of round 3, found rounds []'),
  (
    damage_memory,
    ['--rounds=4'],
    'data.mdb: expected undamaged client state, found page 0 is damaged',
  ),
  (memory_of_another_run, ['--rounds=4'], 'expected the client state of this run, found that of'),
  (no_checkpoints, ['--rounds=4'], 'has metrics.csv but no checkpoint to resume from'),
  (no_record_and_no_checkpoints, [], 'has metrics.csv but no checkpoint to resume from'),
]


@pytest.mark.parametrize('change, flags, message', RUN_FOLDERS)
def test_run_folders(tmp_path, capsys, complete, change, flags, message):
  folder = tmp_path / 'run'
  shutil.copytree(complete, folder)
  change(folder)
  before = (folder / 'metrics.csv').read_bytes()
  check(capsys, 'train', [*LBGM, f'--output_dir={folder}', *flags], message)
  assert (folder / 'metrics.csv').read_bytes() == before


def test_folders_that_are_none(tmp_path, capsys):
  (tmp_path / 'file').write_text('mine')
  for folder in (tmp_path / 'file', tmp_path / 'file' / 'run'):
    check(capsys, 'train', [f'--output_dir={folder}'], f'{folder} cannot be created')
  assert (tmp_path / 'file').read_text() == 'mine'


def test_a_folder_in_use(tmp_path, capsys):
  with folder_lock.FolderLock(tmp_path):
    check(capsys, 'train', [f'--output_dir={tmp_path}'], 'in use by another run, process')
