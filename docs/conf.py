"""Sphinx's settings. `./dev docs` builds the pages into build/docs, readable without a network."""

import os
import pathlib
import sys
import warnings

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'docs' / '_ext')]

# What TFF imports warns of its own imports.
warnings.filterwarnings('ignore', 'pkg_resources is deprecated', UserWarning)

import tff_lowrank

project = 'tff_lowrank'
author = 'The tff_lowrank authors'
copyright = 'Apache License 2.0'
version = release = tff_lowrank.__version__

extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'docstrings', 'records']

# Pages.
smartquotes = False
myst_enable_extensions = ['colon_fence', 'deflist']
myst_heading_anchors = 3
# Notebooks are stored with their outputs; tests/docs_test.py runs their code.
nb_execution_mode = 'off'
exclude_patterns = ['_build']

# Indented text in docstrings.
highlight_language = 'none'

# Reference pages.
default_role = 'code'
# Keras's docstrings are not ours.
autodoc_inherit_docstrings = False
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_typehints_format = 'short'
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_use_rtype = False
napoleon_use_ivar = True

# Strict: `./dev docs` turns every warning into an error. Types of other packages have no page here,
# nor have this package's types that are not public.
nitpicky = True
nitpick_ignore_regex = [
  (r'py:.*', r'(?!tff_lowrank)[\w.*~ ]+'),
  (r'py:.*', r'tff_lowrank\.\w+\.\w+\.\w+'),
]
suppress_warnings = ['mystnb.unknown_mime_type']

html_theme = 'furo'
html_title = f'tff_lowrank {version}'
html_static_path = ['_static']
html_copy_source = False
html_show_sphinx = False
