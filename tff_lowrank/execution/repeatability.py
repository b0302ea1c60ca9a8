"""Finds out which data sets give the same elements in each pass, and copies the others.

TFF's stock runtime restarts a data set in each call, from its serialised graph. Data sets that are
not repeatable are copied in the same way here, so that in each call they start from their seeds and
read the current values of variables and tables.
"""

import itertools
from typing import Any

import tensorflow as tf

from tff_lowrank.execution import graph_defs
from tff_lowrank.execution import native

# Data sets that give the same elements in each pass if their inputs do.
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


# Operations that are not marked as stateful in TensorFlow, but read more than their inputs.
_READING_OPS = frozenset(['MatchingFiles', 'PyFuncStateless', 'ReadFile'])


def _reads_nothing_else(function: Any) -> bool:
  """Whether a concrete function's results depend on its arguments and constants only."""
  if any(op.op_def.is_stateful for op in function.graph.get_operations()):
    return False
  if any(t.dtype in (tf.resource, tf.variant) for t in function.captured_inputs):
    return False
  graph_def = function.graph.as_graph_def()
  return not any(node.op in _READING_OPS for node in graph_defs.all_nodes(graph_def))


def is_repeatable(dataset: tf.data.Dataset) -> bool:
  """Whether each pass over `dataset` is known to give the same elements.

  False for data sets that shuffle, are random or stateful, come from a generator or files, read a
  variable or table, or were not made in this process.
  """
  if type(dataset).__name__.strip('_') not in _REPEATABLE:
    return False
  function = native.map_function(dataset)
  if function is not None and not _reads_nothing_else(function):
    return False
  return all(is_repeatable(source) for source in native.dataset_inputs(dataset))


# Data sets with a state that one pass leaves for the next, such as a random state or a cache.
_STATEFUL_OPS = frozenset(
  ['CacheDatasetV2', 'RandomDatasetV2', 'ShuffleAndRepeatDatasetV2', 'ShuffleDatasetV3']
)
_PYTHON_OPS = frozenset(['EagerPyFunc', 'PyFunc', 'PyFuncStateless'])
NO_GRAPH = b''
# The name of a state. All have one length, so that one can replace another in a serialised graph.
_STATE_NAME = 'tff_lowrank_state_{:016d}'
_STATE_NUMBER = itertools.count(1)


def graph_with_own_state(dataset: tf.data.Dataset) -> tuple[bytes, bool]:
  """The serialised graph of `dataset`, for copies that start from its seeds.

  `NO_GRAPH` if TensorFlow cannot serialise it. The second result is whether the graph has fixed
  values of something that `dataset` reads in each pass, such as a variable or a table.
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
  """Whether a graph from `graph_with_own_state` calls Python, so it works in this process only."""
  graph_def = tf.compat.v1.GraphDef.FromString(graph)
  return any(node.op in _PYTHON_OPS for node in graph_defs.all_nodes(graph_def))


def copy_from_graph(graph: bytes, element_spec: Any) -> tf.data.Dataset:
  """A data set from a graph of `graph_with_own_state`. It starts from its seeds."""
  # TensorFlow creates a new state if there is none of that name.
  own, new = (_STATE_NAME.format(i).encode() for i in (0, next(_STATE_NUMBER)))
  variant = tf.raw_ops.DatasetFromGraph(graph_def=graph.replace(own, new))
  return tf.data.experimental.from_variant(variant, element_spec)
