import dataclasses
import http.server
import threading

from matplotlib import image
import pytest

from tests.cli import binaries
from tests.datasets import shakespeare_test
from tff_lowrank.datasets import catalog
from tff_lowrank.datasets import download


def run(tmp_path, *arguments):
  binaries.run('datasets', *arguments, f'--output_dir={tmp_path / "out"}')


def test_lists_all_data_sets(tmp_path, capsys):
  run(tmp_path, '--list')
  printed = capsys.readouterr().out
  for name, data_set in catalog.DATA_SETS.items():
    assert f'{name}: {data_set.about}' in printed and data_set.licence in printed
  assert '342,477 users' in printed and 'stackoverflow.sqlite.lzma' in printed


def test_describes_a_partition(tmp_path, capsys):
  run(tmp_path, '--describe', '--task=digits', '--partition=shards:2', '--num_clients=5')
  printed = capsys.readouterr().out
  assert '5 clients, 360 central test examples' in printed
  assert 'Of all 5 clients: 1,437 training examples' in printed
  assert 'Different labels per client: 2 to 2' in printed
  picture = image.imread(tmp_path / 'out' / 'digits.png')
  assert picture.std() > 0.1


def test_describes_a_sample_of_many_clients(tmp_path, capsys):
  excerpt = f'--data_dir={shakespeare_test.EXCERPT}'
  run(tmp_path, '--describe', '--task=shakespeare', '--partition=natural', excerpt,
      '--max_clients=2')  # fmt: skip
  printed = capsys.readouterr().out
  assert '3 clients' in printed and 'Of 2 random clients of 3' in printed
  assert (tmp_path / 'out' / 'shakespeare.png').exists()


def test_labels_of_tags_are_counted(tmp_path, capsys):
  run(tmp_path, '--describe', '--task=stackoverflow_tags', '--partition=natural',
      '--data_dir=synthetic')  # fmt: skip
  assert 'the 20 most frequent of 20' in capsys.readouterr().out


def test_checks_what_is_there(tmp_path, capsys):
  for part in ('train', 'test'):
    name = f'shakespeare_{part}.h5'
    (tmp_path / name).write_bytes((shakespeare_test.EXCERPT / name).read_bytes())
  run(tmp_path, '--check', f'--data_dir={tmp_path}')
  printed = capsys.readouterr().out
  assert 'here: shakespeare, 3 clients' in printed and 'here: digits, 1 clients' in printed
  assert 'missing: mnist: ' in printed and 'lacks train-images' in printed
  (tmp_path / 'stackoverflow.sqlite').write_text('no database')
  (tmp_path / 'stackoverflow.word_count').write_text('a 1')
  with pytest.raises(ValueError, match='damaged ones; see above'):
    run(tmp_path, '--check', f'--data_dir={tmp_path}')
  assert 'DAMAGED: stackoverflow: ' in capsys.readouterr().out


def test_downloads(tmp_path, monkeypatch, capsys):
  def handler(*args):
    return http.server.SimpleHTTPRequestHandler(*args, directory=str(tmp_path))

  (tmp_path / 'shakespeare.sqlite').write_text('content')
  with http.server.HTTPServer(('127.0.0.1', 0), handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f'http://127.0.0.1:{server.server_port}/shakespeare.sqlite'
    remote = (download.RemoteFile(url),)
    served = dataclasses.replace(catalog.DATA_SETS['shakespeare'], remote=remote)
    monkeypatch.setitem(catalog.DATA_SETS, 'shakespeare', served)
    try:
      run(tmp_path, '--download=shakespeare', f'--data_dir={tmp_path / "data"}')
    finally:
      server.shutdown()
      thread.join()
  assert (tmp_path / 'data' / 'shakespeare.sqlite').read_text() == 'content'
  assert 'Downloaded ' in capsys.readouterr().out


@pytest.mark.parametrize(
  'arguments, message',
  [
    ([], 'Expected one of --list, --check'),
    (['--list', '--check'], 'Expected one of'),
    (['--check'], '--data_dir is missing'),
    (['--download=mnist'], '--data_dir is missing'),
    (['--describe', '--partition=shards:0'], 'partition: A partition must be'),
    (['--describe', '--task=qmnist', '--partition=iid'], 'qmnist has natural clients'),
  ],
)
def test_refuses_wrong_use(tmp_path, arguments, message):
  with pytest.raises(binaries.USAGE_ERRORS, match=message):
    run(tmp_path, *arguments)
