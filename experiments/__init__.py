"""The binaries: see `train`, `compare`, `tune` and `replay`."""

import warnings

from experiments import streams

streams.open_closed()  # Here, as what is imported next may open files.

# What TFF imports warns of its own imports.
warnings.filterwarnings('ignore', 'pkg_resources is deprecated', UserWarning)
