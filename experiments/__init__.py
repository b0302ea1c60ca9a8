"""The binaries: see `train`, `compare`, `tune` and `replay`."""

import os
import warnings

from experiments import streams

streams.open_closed()  # Here, as what is imported next may open files.

# TensorFlow splits an operation over so many threads, by default one a core, and adds up what they
# give: the last digits would depend on the machine. Clients run side by side instead.
os.environ.setdefault('TF_NUM_INTRAOP_THREADS', '1')

# What TFF imports warns of its own imports.
warnings.filterwarnings('ignore', 'pkg_resources is deprecated', UserWarning)
