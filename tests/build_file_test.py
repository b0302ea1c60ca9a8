"""BUILD: as the generator writes it, each source in one target, dependencies as the imports are."""

import ast
import graphlib
import pathlib

from tools import build_files

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ('tff_lowrank', 'experiments', 'benchmarks', 'tools', 'tests')
RULES = ('py_binary', 'py_library', 'py_test')


def read_targets():
  """Target name -> (rule, attributes). BUILD is a subset of Python."""
  targets = {}
  for node in ast.parse((ROOT / 'BUILD').read_text()).body:
    call = node.value
    if isinstance(call, ast.Call) and call.func.id in RULES:
      attributes = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
      assert attributes['name'] not in targets, f'{attributes["name"]} is there twice'
      targets[attributes['name']] = (call.func.id, attributes)
  return targets


TARGETS = read_targets()
SOURCES = {
  str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob('*.py')
}
OWNER = {src: name for name, (_, attributes) in TARGETS.items() for src in attributes['srcs']}


def source_of(module):
  stem = module.replace('.', '/')
  return next((s for s in (f'{stem}.py', f'{stem}/__init__.py') if s in SOURCES), None)


def imports(source):
  for node in ast.walk(ast.parse((ROOT / source).read_text())):
    if isinstance(node, ast.Import):
      yield from (source_of(alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        yield source_of(f'{node.module}.{alias.name}') or source_of(node.module)


def test_build_is_what_the_generator_writes():
  message = 'BUILD differs from the tree: run ./dev build-files.'
  assert (ROOT / 'BUILD').read_text() == build_files.render(), message


def test_a_new_module_changes_what_is_written(tmp_path):
  for name, text in {
    'tff_lowrank/__init__.py': '',
    'tff_lowrank/ledger.py': '',
    'tff_lowrank/codecs/top_k.py': 'from tff_lowrank import ledger',
    'tests/codecs/top_k_test.py': 'from tff_lowrank.codecs import top_k',
    'tools/run.py': "import tff_lowrank.codecs.top_k\nif __name__ == '__main__':\n  pass",
  }.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  before = build_files.render(tmp_path)
  assert before.count('name = ') == 5
  (tmp_path / 'tff_lowrank' / 'codecs' / 'low_rank.py').write_text('')
  added = '"tff_lowrank/codecs/low_rank.py"'
  assert added not in before and added in build_files.render(tmp_path)
  assert (
    'py_binary(\n    name = "tools_run",\n    srcs = ["tools/run.py"],\n'
    '    main = "tools/run.py",\n    deps = [":codecs"],\n)\n'
  ) in before


def test_targets_do_not_depend_on_each_other_in_a_circle():
  graph = {n: [d[1:] for d in a.get('deps', ())] for n, (_, a) in TARGETS.items()}
  assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(TARGETS)


def test_every_source_is_in_one_target():
  listed = [src for _, attributes in TARGETS.values() for src in attributes['srcs']]
  assert sorted(listed) == sorted(SOURCES)


def test_dependencies_are_the_imports():
  for name, (_, attributes) in TARGETS.items():
    needed = {OWNER[s] for src in attributes['srcs'] for s in imports(src) if s}
    needed = sorted(f':{dep}' for dep in needed - {name})
    assert attributes.get('deps', []) == needed, f'deps of {name} should be {needed}'


def test_rules_fit_the_files():
  for name, (rule, attributes) in TARGETS.items():
    is_test = any(src.endswith('_test.py') for src in attributes['srcs'])
    is_binary = any(
      "\nif __name__ == '__main__':" in (ROOT / src).read_text() for src in attributes['srcs']
    )
    expected = 'py_test' if is_test else 'py_binary' if is_binary else 'py_library'
    assert rule == expected, f'{name} should be a {expected}'
