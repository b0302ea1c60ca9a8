"""Which data sets give the same elements in every pass, and copies of the others.

TFF's stock runtime starts a data set anew in every call, from its serialised graph. A data set
that is not repeatable is copied in the same way, so that each call sees it start from its seeds
and read the variables and tables as they are then.
"""

import itertools
from typing import Any

import tensorflow as tf

from tff_lowrank.execution import graph_defs
from tff_lowrank.execution import native

# Data sets that give the same elements in every pass, if what they are made from does.
_REPEATABLE = frozenset(
  [
    'BatchDataset',
    'CacheDataset',
    'ConcatenateDataset',
    'EnumerateDataset',
    'FilterDataset',
    'MapDataset',
    'OptionsDataset',
    'PaddedBatchDataset',
    'ParallelMapDataset',
    'PrefetchDataset',
    'RangeDataset',
    'RebatchDataset',
    'RepeatDataset',
    'ShardDataset',
    'SkipDataset',
    'TakeDataset',
    'TensorDataset',
    'TensorSliceDataset',
    'UnbatchDataset',
    'WindowDataset',
    'ZipDataset',
  ]
)


# Operations that TensorFlow takes for functions of their inputs, and that read something else.
_READING_OPS = frozenset(['MatchingFiles', 'PyFuncStateless', 'ReadFile'])


def _reads_nothing_else(function: Any) -> bool:
  """Whether what a concrete function gives follows from its arguments and constants alone."""
  if any(op.op_def.is_stateful for op in function.graph.get_operations()):
    return False
  if any(t.dtype in (tf.resource, tf.variant) for t in function.captured_inputs):
    return False
  graph_def = function.graph.as_graph_def()
  return not any(node.op in _READING_OPS for node in graph_defs.all_nodes(graph_def))


def is_repeatable(dataset: tf.data.Dataset) -> bool:
  """Whether every pass over `dataset` is known to give the same elements.

  Not so for shuffling, random, stateful, generated or file-based ones, for those that read a
  variable, a table or a file, and for what was not made in this process.
  """
  if type(dataset).__name__.strip('_') not in _REPEATABLE:
    return False
  function = native.map_function(dataset)
  if function is not None and not _reads_nothing_else(function):
    return False
  return all(is_repeatable(source) for source in native.dataset_inputs(dataset))


# Data sets that keep something from one pass for the next: a random state, a cache.
_STATEFUL_OPS = frozenset(
  ['CacheDatasetV2', 'RandomDatasetV2', 'ShuffleAndRepeatDatasetV2', 'ShuffleDatasetV3']
)
_PYTHON_OPS = frozenset(['EagerPyFunc', 'PyFunc', 'PyFuncStateless'])
NO_GRAPH = b''
# The name of a state, all of one length so that one can replace another in a serialised graph.
_STATE_NAME = 'tff_lowrank_state_{:016d}'
_STATE_NUMBER = itertools.count(1)


def graph_with_own_state(dataset: tf.data.Dataset) -> tuple[bytes, bool]:
  """The serialised graph of `dataset`, to make copies that each start from its seeds.

  `NO_GRAPH` if TensorFlow cannot write it down. The second result says whether the graph holds
  for good what `dataset` reads anew in each pass: the value of a variable, a table's content.
  """
  variant = tf.data.experimental.to_variant(dataset)
  try:
    serialized = tf.raw_ops.DatasetToGraphV2(input_dataset=variant).numpy()
  except (tf.errors.OpError, NotImplementedError):
    return NO_GRAPH, False
  graph_def = tf.compat.v1.GraphDef.FromString(serialized)
  states = {s for n in graph_def.node if n.op in _STATEFUL_OPS for s in n.input}
  holds_values = False
  for node in graph_def.node:
    if node.name in states and node.op == 'Const':
      for handle in node.attr['value'].tensor.resource_handle_val:
        handle.name = _STATE_NAME.format(0)
    else:
      holds_values |= any(
        tf.resource.as_datatype_enum in (value.type, *value.list.type)
        for value in node.attr.values()
      )
  graph_defs.make_resources_anonymous(graph_def)
  return graph_def.SerializeToString(), holds_values


def is_of_this_process(graph: bytes) -> bool:
  """Whether a graph from `graph_with_own_state` calls Python, which other processes cannot."""
  graph_def = tf.compat.v1.GraphDef.FromString(graph)
  return any(node.op in _PYTHON_OPS for node in graph_defs.all_nodes(graph_def))


def copy_from_graph(graph: bytes, element_spec: Any) -> tf.data.Dataset:
  """A data set made of a graph from `graph_with_own_state`, which starts from its seeds."""
  # TensorFlow makes a state anew if it finds none of that name.
  own, new = (_STATE_NAME.format(i).encode() for i in (0, next(_STATE_NUMBER)))
  variant = tf.raw_ops.DatasetFromGraph(graph_def=graph.replace(own, new))
  return tf.data.experimental.from_variant(variant, element_spec)
