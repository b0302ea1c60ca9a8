import os
import signal
import sys
import time

import pytest

from tests.execution import clusters
from tff_lowrank import execution
from tff_lowrank.execution import ray_cluster


def test_without_ray_the_error_names_the_extra(monkeypatch):
  monkeypatch.setattr(ray_cluster.importlib.util, 'find_spec', lambda name: None)
  monkeypatch.delitem(sys.modules, 'ray', raising=False)
  with pytest.raises(ImportError, match=r'extra `ray`.*pip install "tff-lowrank\[ray\]"'):
    execution.create_ray_context()


def test_importing_the_package_does_not_import_ray():
  program = clusters.start_program(
    'import sys; from tff_lowrank import execution; print("loaded", "ray" in sys.modules)'
  )
  assert 'loaded False' in program.communicate(timeout=120)[0]


def test_workers_have_what_decides_numbers_here(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_enable_fast_math=false')
  monkeypatch.setenv('TF_NUM_INTRAOP_THREADS', '3')
  found = ray_cluster.environment()
  assert found['XLA_FLAGS'] == '--xla_cpu_enable_fast_math=false'
  assert found['TF_NUM_INTRAOP_THREADS'] == '3'
  assert 'HOME' not in found and 'XLA_PYTHON_CLIENT_MEM_FRACTION' not in found
  # As many as this machine has cores, whatever the node of the worker has.
  monkeypatch.delenv('TF_NUM_INTRAOP_THREADS')
  assert ray_cluster.environment()['TF_NUM_INTRAOP_THREADS'] == str(os.cpu_count())
  assert ray_cluster.environment(gpu=0.5)['XLA_PYTHON_CLIENT_MEM_FRACTION'] == '0.450'


@pytest.mark.parametrize(
  'workers, resources, expected', [(1, {'CPU': 1}, 1), (7, {'CPU': 2}, 14), (3, {'CPU': 0.5}, 2)]
)
def test_a_new_cluster_has_room_for_the_workers(monkeypatch, workers, resources, expected):
  monkeypatch.setattr(os, 'cpu_count', lambda: 1)
  assert ray_cluster.cpus_for(workers, resources) == expected


# What runs in a process of its own: it prints, and then does `THEN`.
_PROGRAM = """
import os, sys, time
import psutil
import numpy as np, tensorflow as tf, tensorflow_federated as tff
from tff_lowrank import execution

def open_slowly():
  def open_client(client_id, round_num):
    open(PATH, 'w').close()
    time.sleep(60)
  return open_client

@tff.tensorflow.computation(tff.SequenceType(np.int64))
def total(numbers):
  return numbers.reduce(np.int64(0), lambda a, b: a + b)

@tff.federated_computation(tff.FederatedType(tff.SequenceType(np.int64), tff.CLIENTS))
def sum_of_all(numbers):
  return tff.federated_sum(tff.federated_map(total, numbers))

PATH = sys.argv[1]
context = execution.set_ray_context(num_workers=2)
family = psutil.Process().children(recursive=True)
print('family', *(p.pid for p in family), flush=True)
ports = {c.laddr.ip for p in [psutil.Process(), *family] if p.is_running()
         for c in p.net_connections('inet') if c.status == 'LISTEN'}
print('ports', *sorted(ports), flush=True)
listening = [p for p in family if p.is_running() and
             any(c.status == 'LISTEN' for c in p.net_connections('inet'))]
print('pages', sum('dashboard.py' in ' '.join(p.cmdline()) for p in listening), flush=True)
print('sum', sum_of_all([[np.int64(1), np.int64(k)] for k in range(4)]), flush=True)
THEN
"""


def _run_program(then, tmp_path):
  source = _PROGRAM.replace('THEN', then).replace('sys.argv[1]', repr(str(tmp_path / 'begun')))
  return clusters.start_program(source)


def _read(program, word):
  """The rest of the line of the program's output that begins with `word`."""
  for line in program.stdout:
    if line.startswith(word):
      return line.removeprefix(word).split()
  raise AssertionError(f'The program ended without {word}.')


def _family(program):
  return [int(pid) for pid in _read(program, 'family')]


def _ends(pids, seconds=30):
  clusters.wait_until(lambda: not clusters.of_ray(pids), seconds)


class TestProgram:
  pytestmark = clusters.needs_ray

  def test_its_own_cluster_is_of_this_machine_alone_and_ends_with_it(self, tmp_path):
    program = _run_program('', tmp_path)
    pids = _family(program)
    ips = _read(program, 'ports')
    assert ips and {ip.removeprefix('::ffff:') for ip in ips} <= {'127.0.0.1', '::1'}
    assert _read(program, 'pages') == ['0']
    assert _read(program, 'sum') == ['10']
    assert program.wait(60) == 0
    _ends(pids)

  def test_it_ends_with_a_program_that_is_killed(self, tmp_path):
    program = _run_program('time.sleep(100)', tmp_path)
    pids = _family(program)
    _read(program, 'sum')
    program.kill()
    program.wait(20)
    _ends(pids, 240)  # Two of Ray's agents try to report the end first.

  def test_ctrl_c_ends_the_round_and_the_workers_and_the_next_call_starts_new_ones(self, tmp_path):
    program = _run_program(
      """
source = execution.DataSource(open_slowly)
old = [w.pid for w in context.workers]
print('old', *old, flush=True)
try:
  sum_of_all([source.describe('a', 1)] * 2)
except KeyboardInterrupt:
  print('interrupted', len(context.workers), flush=True)
print('again', sum_of_all([[np.int64(5)]]), len(context.workers), flush=True)
context.close()
""",
      tmp_path,
    )
    pids = _family(program)
    old = [int(pid) for pid in _read(program, 'old')]
    clusters.wait_until((tmp_path / 'begun').exists, 30)
    start = time.monotonic()
    program.send_signal(signal.SIGINT)
    assert _read(program, 'interrupted') == ['0']
    assert time.monotonic() - start < 10
    _ends(old)
    assert _read(program, 'again') == ['5', '2']
    assert program.wait(60) == 0
    _ends(pids)


class TestConnect:
  pytestmark = clusters.needs_ray

  @pytest.fixture(scope='class')
  def cluster(self):
    with clusters.of_nodes(2) as cluster:
      yield cluster

  def test_a_cluster_is_joined_when_it_is_named_and_left_as_it_was(self, cluster):
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    with execution.create_ray_context(cluster.address, num_workers=1) as context:
      assert len(context.workers) == 1
      assert ray.available_resources().get('CPU') == 1
      assert signal.getsignal(signal.SIGTERM) is handler
      # One that is there is not taken by chance.
      with pytest.raises(RuntimeError, match='connected to a Ray cluster already'):
        execution.create_ray_context()
      second = execution.create_ray_context('auto', num_workers=1)
      second.close()
      assert ray.is_initialized()  # It is the first one's.
      pid = context.workers[0].pid
    assert not ray.is_initialized()
    _ends([pid])
    ray.init(cluster.address, log_to_driver=False)
    try:
      clusters.wait_until(lambda: ray.available_resources().get('CPU') == 2, 20)
      assert all(node['Alive'] for node in ray.nodes())
    finally:
      ray.shutdown()

  @pytest.mark.parametrize(
    'workers, resources',
    [(3, None), (2, {'CPU': 2}), (1, {'CPU': 1, 'GPU': 0.5}), (1, {'tpu_of_mine': 1})],
  )
  def test_workers_that_do_not_fit_are_refused(self, cluster, workers, resources):
    import ray

    with pytest.raises(ValueError, match='`num_workers` must be from 1 to [0-2], as many workers'):
      execution.create_ray_context(cluster.address, workers, resources)
    assert not ray.is_initialized()

  def test_all_that_fit_are_started_if_no_number_is_given(self, cluster):
    with execution.create_ray_context(cluster.address) as context:
      assert len(context.workers) == 2
    with execution.create_ray_context(cluster.address, None, {'CPU': 2}) as context:
      assert len(context.workers) == 1

  def test_a_cluster_that_is_not_there(self):
    with pytest.raises(ConnectionError, match='There is no Ray cluster at 127.0.0.1:1'):
      execution.create_ray_context('127.0.0.1:1')
    with pytest.raises(ValueError, match='must be `auto` or host:port.*ray://head:10001'):
      execution.create_ray_context('ray://head:10001')
