"""The binaries: see `train` and `compare`."""

import warnings

# What TFF imports warns of its own imports.
warnings.filterwarnings('ignore', 'pkg_resources is deprecated', UserWarning)
