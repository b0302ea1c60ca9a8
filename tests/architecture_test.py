"""The rooms and who may import whom, enforced from the syntax tree."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Floor of each room: imports point to lower floors, or stay within the room.
FLOORS = {
  'tff_lowrank': 0,
  'tff_lowrank.structures': 0,
  'tff_lowrank.ledger': 0,
  'tff_lowrank.checks': 0,
  'tff_lowrank.file_lock': 0,
  'tff_lowrank.objects': 0,
  'tff_lowrank.settings': 0,
  'tff_lowrank.files': 0,
  'tff_lowrank.datasets': 1,
  'tff_lowrank.codecs': 1,
  'tff_lowrank.freezing': 1,
  'tff_lowrank.layers': 1,
  'tff_lowrank.client_state': 1,
  'tff_lowrank.analysis': 2,
  'tff_lowrank.models': 2,
  'tff_lowrank.aggregators': 2,
  'tff_lowrank.execution': 2,
  'tff_lowrank.doctor': 3,
  'tff_lowrank.exported': 0,
  'tff_lowrank.findings': 0,
  'tff_lowrank.nvidia': 1,
  'tff_lowrank.objectives': 2,
  'tff_lowrank.testing': 2,
  'tff_lowrank.tasks': 3,
  'tff_lowrank.client_work': 3,
  'tff_lowrank.learning.composition': 4,
  'tff_lowrank.learning': 5,
  'tff_lowrank.simulation': 6,
  'tff_lowrank.methods': 6,
  'tff_lowrank.reports': 7,
  'tff_lowrank.runs': 8,
  'tff_lowrank.cli': 9,
  'experiments': 10,
  'benchmarks': 10,
  'tools': 10,
}
# On the ground floor, who may import whom.
GROUND = {
  'tff_lowrank.ledger': {'tff_lowrank.structures'},
  'tff_lowrank.settings': {'tff_lowrank.objects'},
}

TFF_FREE = (
  'tff_lowrank',
  'tff_lowrank.structures',
  'tff_lowrank.ledger',
  'tff_lowrank.checks',
  'tff_lowrank.file_lock',
  'tff_lowrank.files',
  'tff_lowrank.exported',
  'tff_lowrank.codecs',
  'tff_lowrank.testing',
  'tff_lowrank.freezing',
  'tff_lowrank.analysis',
  'tff_lowrank.client_state',
  'tff_lowrank.datasets.partition',
  'tff_lowrank.layers',
  'tff_lowrank.models',
  'tff_lowrank.simulation.network',
  'tff_lowrank.settings',
  'tff_lowrank.objects',
  'tff_lowrank.reports',
)

PRIVATE_MODULES = ('jax._src', 'tensorflow.python', 'tensorflow_federated.python')
PRIVATE_MODULES_ONLY_IN = 'tff_lowrank.execution.native'

PUBLIC_NAMES = {
  'tff_lowrank.aggregators': {
    'ClientStatefulAggregationFactory',
    'ClientStatefulAggregationOutput',
    'ClientStatefulAggregationProcess',
    'ClientStatefulCodedMeanFactory',
    'CodedMeanFactory',
    'FreezingFactory',
    'GlobalLookBackFactory',
    'SharedLookBackFactory',
    'check_codec_under_freezing',
    'lift',
  },
  'tff_lowrank.client_state': {'LmdbStore', 'MemoryStore', 'Packing', 'Store'},
  'tff_lowrank.client_work': {
    'ClientOptimizer',
    'ClientRates',
    'RoundSchedule',
    'build_local_sgd',
    'exponential_decay',
    'last_layer_mask',
    'with_rate',
  },
  'tff_lowrank.codecs': {
    'Atomo',
    'CMFL',
    'Codec',
    'DRIVE',
    'EF21',
    'Encoded',
    'ErrorFeedback',
    'Float16',
    'GRANULARITIES',
    'Gaia',
    'Identity',
    'LookBack',
    'PowerSGD',
    'QSGD',
    'RandomK',
    'Reference',
    'SignSGD',
    'SparseTernary',
    'TernGrad',
    'TopK',
    'Traits',
    'TruncatedSVD',
    'parse',
    'resolve',
  },
  'tff_lowrank.execution': {
    'ClientDataset',
    'ClientError',
    'DataSource',
    'RayContext',
    'create_async_local_context',
    'create_local_context',
    'create_ray_context',
    'explain',
    'export_programs',
    'set_local_context',
    'set_ray_context',
    'stock_context',
  },
  'tff_lowrank.freezing': {
    'Settings',
    'State',
    'frozen_mask',
    'hold',
    'initial_state',
    'measure',
    'next_round',
  },
  'tff_lowrank.learning': {
    'ClientStatefulLearningOutput',
    'ClientStatefulLearningProcess',
    'build_apf_fed_avg',
    'build_compressed_fed_avg',
    'build_fed_avg',
    'build_fed_dyn',
    'build_fed_prox',
    'build_global_lbgm_fed_avg',
    'build_lbgm_fed_avg',
    'build_local_only',
    'build_partial_sync_fed_avg',
    'build_personal_fed_avg',
    'build_scaffold',
    'build_shared_lbgm_fed_avg',
    'check_downlink',
  },
  'tff_lowrank.layers': {
    'AdapterConv1D',
    'AdapterConv2D',
    'AdapterConv3D',
    'AdapterDense',
    'AdapterDepthwiseConv1D',
    'AdapterDepthwiseConv2D',
    'AdapterEmbedding',
    'AdapterGRU',
    'AdapterLSTM',
    'AdapterSeparableConv1D',
    'AdapterSeparableConv2D',
    'Conversion',
    'FedParaConv1D',
    'FedParaConv2D',
    'FedParaConv3D',
    'FedParaDense',
    'FedParaDepthwiseConv1D',
    'FedParaDepthwiseConv2D',
    'FedParaEmbedding',
    'FedParaGRU',
    'FedParaLSTM',
    'FedParaSeparableConv1D',
    'FedParaSeparableConv2D',
    'LowRankConv1D',
    'LowRankConv2D',
    'LowRankConv3D',
    'LowRankDense',
    'LowRankDepthwiseConv1D',
    'LowRankDepthwiseConv2D',
    'LowRankEmbedding',
    'LowRankGRU',
    'LowRankLSTM',
    'LowRankSeparableConv1D',
    'LowRankSeparableConv2D',
    'StatelessDropout',
    'compose',
    'corrected_loss',
    'dropout_key',
    'is_personal',
    'personal_mask',
    'to_adapters',
    'to_fedpara',
    'to_low_rank',
  },
  'tff_lowrank.methods': {
    'BASELINE',
    'Choice',
    'METHODS',
    'Method',
    'Parts',
    'find',
    'owners',
  },
  'tff_lowrank.runs': {'Comparison', 'Run', 'RunSpec', 'Saving', 'compare', 'train'},
  'tff_lowrank.models': {
    'build_char_lstm',
    'build_cnn',
    'build_emnist_cnn',
    'build_keyword_lstm',
    'build_lenet5',
    'build_mlp',
    'build_resnet18',
    'build_two_fc',
    'build_vgg16',
    'build_word_lstm',
  },
  'tff_lowrank.tasks': {
    'EMBEDDED',
    'NAMES',
    'NATURAL',
    'SYNTHETIC',
    'Task',
    'build',
    'check_name',
    'check_partition',
    'default_num_clients',
    'default_partition',
    'from_client_data',
    'prepare',
    'simple_partitions',
    'source',
  },
}


def module_name(path):
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


SOURCES = {
  module_name(path): path
  for package in ('tff_lowrank', 'experiments', 'benchmarks', 'tools')
  for path in sorted((ROOT / package).rglob('*.py'))
}


@functools.cache
def tree_of(name):
  return ast.parse(SOURCES[name].read_text(), name)


@functools.cache
def imported_modules(name):
  """All modules that the source of `name` imports, anywhere in it."""
  return frozenset(_imported_modules(name))


def _imported_modules(name):
  for node in ast.walk(tree_of(name)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{name} imports relatively'
      for alias in node.names:
        full = f'{node.module}.{alias.name}'
        yield full if full in SOURCES else node.module


def room(name):
  """The longest prefix of a module's name that is a room."""
  parts = name.split('.')
  return next(prefix for i in range(len(parts), 0, -1) if (prefix := '.'.join(parts[:i])) in FLOORS)


def reachable(name):
  """All modules that importing `name` loads, with the packages they lie in."""
  found, todo = set(), [name]
  while todo:
    module = todo.pop()
    if module in found:
      continue
    found.add(module)
    if module in SOURCES:
      todo += imported_modules(module)
      todo += ['.'.join(module.split('.')[:i]) for i in range(1, module.count('.') + 1)]
  return found


def test_imports_point_down():
  pairs = ((name, other) for name in SOURCES for other in imported_modules(name))
  for name, other in pairs:
    if other not in SOURCES:
      continue
    mine, theirs = room(name), room(other)
    allowed = mine == theirs or FLOORS[theirs] < FLOORS[mine] or theirs in GROUND.get(mine, ())
    assert allowed, f'{name} (floor {FLOORS[mine]}) imports {other} (floor {FLOORS[theirs]})'


def test_tff_free_rooms_never_load_tff():
  inside = tuple(f'{room}.' for room in TFF_FREE[1:])
  for name in SOURCES:
    if name not in TFF_FREE and not name.startswith(inside):
      continue
    loaded = {m for m in reachable(name) if m.split('.')[0] == 'tensorflow_federated'}
    assert not loaded, f'{name} loads {loaded}'


def test_tff_free_rooms_exist():
  assert set(TFF_FREE) <= set(SOURCES)


def test_no_private_names_of_others():
  for name in SOURCES:
    for node in ast.walk(tree_of(name)):
      if isinstance(node, ast.ImportFrom):
        private = [alias.name for alias in node.names if alias.name.startswith('_')]
        assert not private, f'{name} imports {private} from {node.module}'
    if name != PRIVATE_MODULES_ONLY_IN:
      assert not any(m.startswith(PRIVATE_MODULES) for m in imported_modules(name)), name


@pytest.mark.parametrize('name', PUBLIC_NAMES)
def test_public_names(name):
  exported = {
    alias.asname
    for node in ast.walk(tree_of(name))
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
    if alias.asname == alias.name
  }
  assert exported == PUBLIC_NAMES[name]
  [listed] = (
    ast.literal_eval(node.value)
    for node in tree_of(name).body
    if isinstance(node, ast.Assign) and node.targets[0].id == '__all__'
  )
  assert sorted(listed) == sorted(exported)


def test_plots_leave_pyplot_and_its_backend_to_the_program():
  with_pyplot = [
    p.name for p in (ROOT / 'tff_lowrank').rglob('*.py') if 'pyplot as' in p.read_text()
  ]
  assert not with_pyplot


def test_every_package_that_exports_names_is_listed():
  packages = {
    name
    for name in SOURCES
    if (ROOT / name.replace('.', '/')).is_dir() and name != 'tff_lowrank'
    for node in tree_of(name).body
    if isinstance(node, ast.ImportFrom) and any(a.asname == a.name for a in node.names)
  }
  assert packages == set(PUBLIC_NAMES)


def test_library_files_are_short_and_documented():
  for name, path in SOURCES.items():
    tree = tree_of(name)
    assert ast.get_docstring(tree) or not tree.body, f'{name} has no docstring'
    if path.name != '__init__.py' and room(name) != 'benchmarks':
      assert len(path.read_text().splitlines()) <= 400, name
    for node in tree.body:
      if (
        isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and node.name[0] != '_'
        and node.name != 'main'
      ):
        is_short = node.end_lineno - node.lineno < 15
        assert is_short or ast.get_docstring(node), f'{name}.{node.name} has no docstring'


def untyped(function, is_method):
  """Whether a parameter or the result has no type; TFF computations say theirs in a decorator."""
  if any('computation' in ast.unparse(decorator) for decorator in function.decorator_list):
    return False
  of = function.args
  parameters = [*of.posonlyargs, *of.args, *of.kwonlyargs, of.vararg, of.kwarg][is_method:]
  has_result = function.returns is not None or function.name == '__init__'
  return not has_result or any(p is not None and p.annotation is None for p in parameters)


def test_functions_and_methods_have_types():
  for name in SOURCES:
    if not name.startswith('tff_lowrank'):
      continue
    body = tree_of(name).body
    found = [(node, False) for node in body if isinstance(node, ast.FunctionDef)]
    for node in body:
      if isinstance(node, ast.ClassDef):
        methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
        found += [(m, 'staticmethod' not in map(ast.unparse, m.decorator_list)) for m in methods]
    without = [function.name for function, is_method in found if untyped(function, is_method)]
    assert not without, f'{name}: {without}'


def test_tests_mirror_the_tree():
  expected = {
    (ROOT / 'tests' / path.relative_to(ROOT / 'tff_lowrank')).with_name(f'{path.stem}_test.py')
    for path in (ROOT / 'tff_lowrank').rglob('*.py')
    if path.name != '__init__.py'
  }
  missing = sorted(str(path.relative_to(ROOT)) for path in expected if not path.exists())
  assert not missing


def test_only_its_own_file_knows_a_method_s_name():
  names = {p.stem for p in (ROOT / 'tff_lowrank' / 'methods').glob('*.py')} & {
    node.value.value
    for name in SOURCES
    if room(name) == 'tff_lowrank.methods'
    for node in ast.walk(tree_of(name))
    if isinstance(node, ast.keyword) and node.arg == 'name' and isinstance(node.value, ast.Constant)
  }
  assert len(names) > 10
  texts = {
    name: {node.value for node in ast.walk(tree_of(name)) if isinstance(node, ast.Constant)}
    for name in SOURCES
  }
  names -= texts['tff_lowrank.models.families']  # Families called as the methods that have them.
  for name in SOURCES:
    if room(name) not in ('tff_lowrank.methods', 'benchmarks', 'experiments'):
      assert not texts[name] & names, f'{name} names a method'
