"""Tests of `benchmarks.gpu_check`, on a machine whose GPU is not one."""

import queue

import pytest

from benchmarks import gpu_check
from tff_lowrank import doctor
from tff_lowrank.execution import native
from tff_lowrank.execution import xla

CPU, GPU = doctor.Placement('CPU:0', 'TensorFlow', 'strings'), doctor.Placement('GPU:0', 'XLA')


@pytest.mark.parametrize(
  ['device', 'ran', 'platforms', 'said'],
  [
    ('GPU:0', [GPU], ['cuda'], ''),
    ('CPU:0', [CPU], [], ''),
    ('GPU:0', [GPU, CPU], ['cuda'], 'it ran elsewhere: TensorFlow on CPU:0 (strings)'),
    ('GPU:1', [GPU], ['cuda'], 'it ran elsewhere: XLA on GPU:0'),
    ('GPU:0', [GPU], ['cuda', 'cpu'], 'results of its programs lay on the cpu'),
    ('GPU:0', [GPU], [], 'no XLA program ran there'),
    ('GPU:0', [], ['cuda'], 'no XLA program ran there'),
  ],
)
def test_a_round_that_ran_elsewhere(device, ran, platforms, said):
  assert gpu_check.elsewhere(device, ran, platforms) == said


class Pipe:
  """Asks for `rounds` rounds and then for the weights."""

  def __init__(self, rounds=0):
    self.sent = []
    self._asked = queue.SimpleQueue()
    for i in range(rounds + 1):
      self._asked.put(i < rounds)

  def send(self, value):
    self.sent.append(value)

  def recv(self):
    return self._asked.get_nowait()


@pytest.fixture
def cpu_as_gpu(monkeypatch):
  """jaxlib says that its CPU is a GPU."""
  devices = native.xla_devices('cpu')
  monkeypatch.setattr(native, 'xla_devices', lambda kind: devices)


def test_rounds_on_the_cpu_as_asked():
  pipe = Pipe(rounds=1)
  gpu_check._serve('CPU:0', 'B', 'auto', pipe)
  (is_ready, found), seconds, weights = pipe.sent
  assert is_ready and found == 'XLA on CPU:0'
  assert seconds > 0 and [w.shape for w in weights] == [(784, 200), (200,), (200, 10), (10,)]
  assert native.call_observers == []


def test_programs_that_silently_ran_on_the_cpu_are_an_error(cpu_as_gpu):
  pipe = Pipe()
  gpu_check._serve('GPU:0', 'B', 'auto', pipe)
  assert pipe.sent == [(False, 'ERROR: results of its programs lay on the cpu')]


def test_tensorflow_in_place_of_the_gpu_is_an_error(cpu_as_gpu, monkeypatch):
  monkeypatch.setattr(xla, 'reason_against', lambda stage, on_cpu: 'strings')
  pipe = Pipe()
  gpu_check._serve('GPU:0', 'B', 'auto', pipe)
  assert pipe.sent == [(False, 'ERROR: it ran elsewhere: TensorFlow on CPU:0 (strings)')]


def test_faults_of_gpus_are_named(monkeypatch):
  def fail(*_):
    raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory')

  monkeypatch.setattr(gpu_check, '_build', fail)
  pipe = Pipe()
  gpu_check._serve('CPU:0', 'B', 'auto', pipe)
  ((is_ready, found),) = pipe.sent
  assert not is_ready and found.startswith('out of memory: RuntimeError: RESOURCE_EXHAUSTED')
