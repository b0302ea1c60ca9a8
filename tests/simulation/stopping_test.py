import signal
import threading

import pytest

from tff_lowrank.simulation import stopping


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_interrupts(number, capfd):
  before = signal.getsignal(number)
  with stopping.StopRequest() as stop:
    assert not stop.is_made
    signal.raise_signal(number)
    assert stop.is_made and stop.signal_number == number
    assert 'Stopping after this round' in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)
  assert signal.getsignal(number) is before
  assert stopping.Stopped(number, 'text').exit_status == 128 + number


def test_outside_the_main_thread_signals_stay_as_they_are():
  handlers = []

  def enter():
    with stopping.StopRequest():
      handlers.append(signal.getsignal(signal.SIGINT))

  thread = threading.Thread(target=enter)
  thread.start()
  thread.join()
  assert handlers == [signal.getsignal(signal.SIGINT)]
