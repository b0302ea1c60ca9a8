"""Tasks of a function in a module that is made for the test."""

import hashlib
from importlib import metadata
import sys
import textwrap

import numpy as np
import pytest

from tff_lowrank import tasks

MODULE = """
  from tff_lowrank import tasks
  import tensorflow as tf
  import dataclasses

  seen = {}
  number = 3

  def make(
    size: int = 16, rate: float = 0.5, deep: bool = False, title: str = 'made',
    limit: int | None = 4, *, plain=2, either: 'int | str' = 'a', nothing=None, data_dir=None,
  ):
    seen.update(locals())
    task = tasks.build('digits', num_clients=6, seed=3)
    def keras_model_fn():
      return tf.keras.Sequential([
        tf.keras.layers.Flatten(input_shape=(8, 8, 1)),
        *[tf.keras.layers.Dense(size, 'relu')] * (size > 0),
        tf.keras.layers.Dense(10),
      ])
    return dataclasses.replace(task, name=title, keras_model_fn=keras_model_fn)

  def needs(a, b: list): ...
  def takes_all(**settings):
    return settings
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
  """The module `mine` in the current folder, which is not in `sys.path`."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  (tmp_path / 'mine.py').write_text(textwrap.dedent(MODULE))
  yield tmp_path / 'mine.py'
  for name in [name for name in sys.modules if name.split('.')[0] in ('mine', 'broken')]:
    del sys.modules[name]


def build(name='mine:make', **settings):
  return tasks.build(name, **dict(seed=1) | settings)


def seen(*names):
  return {name: sys.modules['mine'].seen[name] for name in names}


def test_a_function_of_the_users_makes_the_task(module):
  task = build()
  assert task.name == 'made' and len(task.train.client_ids) == 6
  assert task.build_model(1).initial_weights[0][0].shape == (64, 16)
  found = tasks.source('mine:make')
  assert found == dict(file=str(module), sha256=hashlib.sha256(module.read_bytes()).hexdigest())


def test_arguments_are_converted_as_the_parameters_say(module):
  texts = dict(size='8', rate='2', deep='true', title='5', limit='none', plain='7', either='b')
  build(task_args=texts | dict(nothing='none'), data_dir='here')
  expected = dict(size=8, rate=2.0, deep=True, title='5', limit=None, plain=7, either='b')
  assert seen(*expected, 'nothing', 'data_dir') == expected | dict(nothing=None, data_dir='here')
  assert isinstance(seen('rate')['rate'], float)
  build(task_args=dict(limit='9', deep='0', either='6', nothing='x', plain=11))
  assert seen('limit', 'deep', 'either', 'nothing', 'plain') == dict(
    limit=9, deep=False, either=6, nothing='x', plain=11
  )


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(size='3.5'), "'size' of mine:make is int, found '3.5'"),
    (dict(limit='x'), "'limit' of mine:make is int or None, found 'x'"),
    (dict(deep='yes'), "'deep' of mine:make is bool, found 'yes'"),
    (dict(plain=''), "'plain' of mine:make is int, found ''"),
    (dict(sise='3'), "mine:make has no parameter 'sise'; it has `size`, `rate`, `deep`"),
  ],
)
def test_arguments_that_do_not_fit_are_refused(module, arguments, message):
  with pytest.raises(ValueError, match=message):
    build(task_args=arguments)


def test_missing_arguments_and_those_of_no_known_type(module):
  with pytest.raises(
    ValueError, match="mine:needs needs a value for 'b'; its parameters: `a`, `b`"
  ):
    build('mine:needs', task_args=dict(a='1'))
  with pytest.raises(ValueError, match="'b' of mine:needs is list, found '2'"):
    build('mine:needs', task_args=dict(a='1', b='2'))


@pytest.mark.parametrize(
  'name, message',
  [
    ('absent:make', "There is no module 'absent' in sys.path or the current folder"),
    ('mine.py:make', "There is no module 'mine.py' in sys.path or"),
    ('mine:absent', "The module 'mine' has no 'absent'"),
    ('mine:number', 'mine:number must be a function, found 3 of type int'),
    ('mine:takes_all', 'mine:takes_all must return a `.*Task`, found {} of type dict'),
    ('broken:make', "The module 'broken' imports 'gone', which cannot be found"),
    ('mine:', "or `package.module:function`, found 'mine:'"),
    ('./mine:make', "or `package.module:function`, found './mine:make'"),
  ],
)
def test_what_is_no_task_is_refused(module, name, message):
  module.with_name('broken.py').write_text('import gone\n')
  with pytest.raises(ValueError, match=message):
    build(name)


def test_errors_in_the_module_pass_as_they_are(module):
  module.with_name('broken.py').write_text('1 / 0\n')
  with pytest.raises(ZeroDivisionError):
    build('broken:make')


def test_options_of_named_tasks(module):
  task = build(num_clients=2, client_test_fraction=0.25, model_family='fedpara', gamma=0.1)
  assert len(task.train.client_ids) == 2 and task.client_test.client_ids == task.train.client_ids
  whole = build().train
  client = task.train.client_ids[0]
  assert task.client_test.num_examples(client) == round(0.25 * whole.num_examples(client))
  plain, factored = (
    sum(np.size(w) for w in made.build_model(1).initial_weights[0]) for made in (build(), task)
  )
  assert factored < plain
  build(partition='natural')
  for settings, message in (
    (dict(partition='iid'), "must be `natural`, found 'iid'"),
    (dict(num_clients=7), 'There are 6 clients, expected 7'),
    (dict(head_rank=3), 'takes no `head_rank`'),
    (dict(model_family='fedpara'), '`gamma` must be given'),
  ):
    with pytest.raises(ValueError, match=message):
      build(**settings)


def test_source_of_an_installed_distribution():
  found = tasks.source('pandas.core.frame:DataFrame')
  assert found['distribution'] == 'pandas' and found['version'] == metadata.version('pandas')
  assert found['file'].endswith('pandas/core/frame.py')
