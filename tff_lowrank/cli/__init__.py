"""The binaries: `tff-lowrank train`, `compare`, `tune`, `replay` and others, by absl flags."""

import logging
import os
import warnings

from tff_lowrank.cli import streams

streams.open_closed()  # Here, as what is imported next may open files.

# TensorFlow splits an operation over so many threads, by default one a core, and adds up what they
# give: the last digits would depend on the machine. Clients run side by side instead.
os.environ.setdefault('TF_NUM_INTRAOP_THREADS', '1')
# What TensorFlow and XLA log of themselves. Errors reach Python as exceptions.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# What TensorFlow warns of in Python, such as functions that are traced anew for other settings.
logging.getLogger('tensorflow').setLevel(logging.ERROR)

# What TFF imports warns of its own imports.
warnings.filterwarnings('ignore', 'pkg_resources is deprecated', UserWarning)
