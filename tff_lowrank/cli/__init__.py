"""The commands `tff-lowrank train`, `compare`, `tune`, `replay` and others; flags by absl."""

import logging
import os
import warnings

from tff_lowrank.cli import streams

streams.open_closed()  # Before the next imports, since they may open files.

# TensorFlow splits an operation over this many threads, by default one per core, and adds up the
# parts: the last digits would depend on the machine. Clients run in parallel instead.
os.environ.setdefault('TF_NUM_INTRAOP_THREADS', '1')
# Hides the logs of TensorFlow and XLA. Errors reach Python as exceptions.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# Hides TensorFlow's Python warnings, for example about retracing of functions.
logging.getLogger('tensorflow').setLevel(logging.ERROR)

# A dependency of TFF warns about its own imports.
warnings.filterwarnings('ignore', 'pkg_resources is deprecated', UserWarning)
