import errno
import os
import signal
import subprocess
import sys

import pytest

from tff_lowrank.simulation import folder_lock

HOLD = """
import sys, time, pathlib
from tff_lowrank.simulation import folder_lock
with folder_lock.FolderLock(pathlib.Path(sys.argv[1])):
  print('held', flush=True)
  time.sleep(600)
"""


def test_one_holder_at_a_time(tmp_path):
  with folder_lock.FolderLock(tmp_path):
    with pytest.raises(BlockingIOError, match=f'in use by another run, process {os.getpid()}'):
      with folder_lock.FolderLock(tmp_path):
        pass
  with folder_lock.FolderLock(tmp_path):
    pass


def test_a_killed_holder_holds_nothing(tmp_path):
  holder = subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path)], stdout=subprocess.PIPE)
  try:
    assert holder.stdout.readline() == b'held\n'
    with pytest.raises(BlockingIOError, match=f'process {holder.pid}'):
      with folder_lock.FolderLock(tmp_path):
        pass
  finally:
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
  with folder_lock.FolderLock(tmp_path):
    pass


def test_a_full_disk_leaves_nothing_locked(tmp_path, monkeypatch):
  def full(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with monkeypatch.context() as patch:
    patch.setattr(os, 'pwrite', full)
    with pytest.raises(OSError, match='cannot be written to: No space left on device'):
      folder_lock.FolderLock(tmp_path).__enter__()
  with folder_lock.FolderLock(tmp_path):
    pass
