"""The binaries: see `train`, `compare`, `tune` and `replay`."""

import warnings

# What TFF imports warns of its own imports.
warnings.filterwarnings('ignore', 'pkg_resources is deprecated', UserWarning)
