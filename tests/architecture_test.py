"""The house rules that a machine can see; WORKSPACE.md says what each of them is for.

Every rule is a function from a made or real tree {path: text} to a list of complaints, so that the
same test that runs it on the checkout also shows that it can fail.
"""

import ast
import io
import json
import os
import re
import subprocess
import sys
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]

# From the ground up. A folder imports from lower floors and from itself.
FLOORS = (
  ("core",),
  ("kernels", "data", "world"),
  ("nn", "losses"),
  ("models",),
  ("objectives", "sampling", "metrics"),
  ("train",),
  ("precompute", "inference"),
  ("stages",),
  ("evaluation", "plan"),
  ("app", "curation"),
  ("launch", "experiments"),
)
_FLOOR = {folder: level for level, floor in enumerate(FLOORS) for folder in floor}

# Arrows along a floor: the builder that turns scenes of the toy world into records.
_SIDEWAYS = {("mg_jax/data/sources/toy.py", "world")}

# Library -> the only places (prefixes of paths) that may import it.
_HOMES = {
  "absl": (
    "launch/", "experiments/", "mg_jax/core/config.py", "mg_jax/evaluation/figures.py", "tests/"
  ),
  "ml_collections": ("launch/", "experiments/", "mg_jax/core/config.py", "tests/"),
  "orbax": ("mg_jax/train/checkpoint.py", "mg_jax/train/warmstart.py", "tests/train/"),
  "grain": ("mg_jax/data/", "mg_jax/train/checkpoint.py", "tests/data/", "tests/train/"),
  "torch": ("tests/parity/", "launch/bench", "mg_jax/models/weights/hub.py"),
  "diffusers": ("tests/parity/", "launch/bench"),
  "transformers": ("tests/parity/", "launch/bench"),
  "tensorflow": (),
}
_NEVER = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
_NO_JAX = ("mg_jax/data/", "mg_jax/world/")
_JAX = {"jax", "jaxlib", "flax", "optax"}
_HEAVY = (
  "torch", "tensorflow", "av", "apache_beam", "transformers", "diffusers", "sentencepiece",
  "tokenizers",
)  # fmt: skip
_DRAWERS = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py"}
_MAX_LINES, _MAX_TEST_LINES = 400, 500
_MAX_MAIN = 60
# Phrases that the terms of WORKSPACE.md replace, as whole words and over line breaks.
_PHRASES = (
  "is told", "are told", "that is none", "that are none", "is not here", "are not here",
  "what is there", "what asks", "of length one", "is heard", "are heard", "gets to see",
  "has come here", "none of their business", "nothing is lost of",
)  # fmt: skip
_PHRASE = re.compile(rf"\b(?:{'|'.join(_PHRASES)})\b".replace(" ", r"(?:\s|#)+"))
_MACHINE_PATH = re.compile(r"(?<![\w.*~})])/(?:work|root)\b")

Tree = dict[str, str]


def _checkout() -> Tree:
  """Text of every file that git tracks or would track; tests of rules make their own trees."""
  listed = subprocess.run(
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    cwd=_ROOT, capture_output=True, text=True,
  )  # fmt: skip
  if listed.returncode == 0:
    paths = [_ROOT / name for name in listed.stdout.split("\0") if name]
  else:  # an unpacked archive
    made = (".venv", ".pytest_cache", ".ruff_cache", ".hypothesis", "runs")
    tops = (p for p in _ROOT.iterdir() if not p.name.startswith(made))
    paths = [path for top in tops for path in ([top] if top.is_file() else top.rglob("*"))]
  tree = {}
  for path in paths:
    if path.is_file() and path.stat().st_size < 1 << 20:
      try:
        tree[path.relative_to(_ROOT).as_posix()] = path.read_text(encoding="utf-8")
      except UnicodeDecodeError:
        continue
  return tree


def _python(tree: Tree, *prefixes: str) -> dict[str, ast.Module]:
  return {
    path: ast.parse(text, path)
    for path, text in sorted(tree.items())
    if path.endswith(".py") and path.startswith(prefixes or "")
  }


def _imports(path: str, module: ast.Module) -> Iterator[str]:
  """Dotted names of all imports of a file, also those inside functions."""
  for node in ast.walk(module):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      parents = path.split("/")[: -node.level] if node.level else []
      base = ".".join([*parents, *filter(None, [node.module])])
      yield from (f"{base}.{alias.name}" for alias in node.names)


def _folder(path: str) -> str | None:
  parts = path.split("/")
  if parts[0] == "mg_jax":
    return parts[1] if len(parts) > 2 else None
  return parts[0]


def floors(tree: Tree) -> list[str]:
  """Arrows that do not point down, and folders that are on no floor."""
  found = []
  for path, module in _python(tree, "mg_jax/", "launch/", "experiments/").items():
    here = _folder(path)
    if here is None:
      continue
    if here not in _FLOOR:
      found.append(f"{path}: the folder {here} is on no floor; add it to FLOORS and WORKSPACE.md")
      continue
    for name in _imports(path, module):
      parts = name.split(".")
      there = parts[1] if parts[0] == "mg_jax" and len(parts) > 1 else parts[0]
      if there not in _FLOOR or there == here or (path, there) in _SIDEWAYS:
        continue
      top = {"launch", "experiments", "app", "curation"}
      together = _FLOOR[there] == _FLOOR[here] and {here, there} <= top
      if _FLOOR[there] >= _FLOOR[here] and not together:
        found.append(f"{path}: imports {name}, which is not below {here}")
  return found


def homes(tree: Tree) -> list[str]:
  """Libraries outside the one place that wraps them, and code that runs what it reads."""
  found = []
  for path, module in _python(tree).items():
    for name in _imports(path, module):
      library = name.split(".")[0]
      if not path.startswith(_HOMES.get(library, ("",))):
        found.append(f"{path}: imports {name}; {library} belongs to {_HOMES[library] or 'nobody'}")
      if library in _NEVER and not path.startswith("tests/"):
        found.append(f"{path}: imports {name}; data is never unpickled")
      if library in _JAX and path.startswith(_NO_JAX):
        found.append(f"{path}: imports {name}; data/ and world/ are numpy only")
    if path.startswith("tests/"):
      continue
    for node in ast.walk(module):
      if isinstance(node, ast.Name) and node.id in ("eval", "exec"):
        found.append(f"{path}:{node.lineno}: uses {node.id}")
      if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
        if not (isinstance(node.value, ast.Constant) and node.value.value is False):
          found.append(f"{path}:{node.value.lineno}: allows pickle")
  return found


def numpy_only(tree: Tree) -> list[str]:
  """Files of data/ and world/ that reach jax through another module of the package."""
  modules = _python(tree, "mg_jax/")
  names = {path.removesuffix("/__init__.py").removesuffix(".py"): path for path in modules}

  def targets(path: str) -> set[str]:
    out = set()
    for name in _imports(path, modules[path]):
      parts = name.split(".")
      prefixes = ("/".join(parts[:i]) for i in range(1, len(parts) + 1))
      out |= {names[p] for p in prefixes if p in names}
    return out

  found = []
  for start in modules:
    if not start.startswith(_NO_JAX):
      continue
    seen, todo = {start}, [start]
    while todo:
      path = todo.pop()
      roots = {name.split(".")[0] for name in _imports(path, modules[path])}
      if path != start and roots & _JAX:
        found.append(f"{start}: reaches {path}, which imports {', '.join(sorted(roots & _JAX))}")
      todo += targets(path) - seen
      seen |= targets(path)
  return found


def sizes(tree: Tree) -> list[str]:
  """Long files, mains with logic in them, drawers, folders that are no packages, few tests."""
  found = []
  for path, text in tree.items():
    if not path.endswith(".py"):
      continue
    lines = len(text.splitlines())
    most = _MAX_TEST_LINES if path.startswith("tests/") else _MAX_LINES
    if lines > most:
      found.append(f"{path}: {lines} lines; split it at {most}")
    if re.fullmatch(r"launch/[^/]+\.py", path) and (code := _code_lines(text)) > _MAX_MAIN:
      found.append(f"{path}: {code} lines of code in a main; move the logic into mg_jax")
    if path.rsplit("/", 1)[-1] in _DRAWERS:
      found.append(f"{path}: a drawer for anything; name the file after what it holds")
    package = f"{path.rsplit('/', 1)[0]}/__init__.py"
    if path.startswith("mg_jax/") and package not in tree:
      found.append(f"{path}: {package} is missing, so an installed mg_jax would lack the folder")
  source, tests = (
    sum(len(t.splitlines()) for p, t in tree.items() if p.startswith(d) and p.endswith(".py"))
    for d in ("mg_jax/", "tests/")
  )
  if 2 * tests < source:
    found.append(f"tests have {tests} lines for {source} of mg_jax; they should be a third of all")
  return found


def _code_lines(text: str) -> int:
  """Lines that hold code: no blank ones, comments or docstrings."""
  skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
          tokenize.ENDMARKER}  # fmt: skip
  docstrings = set()
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
      docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
  lines = set()
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    if token.type not in skip:
      lines |= set(range(token.start[0], token.end[0] + 1))
  return len(lines - docstrings)


def machine_paths(tree: Tree) -> list[str]:
  """Paths that exist on one machine only."""
  return [
    f"{path}:{number}: names a path of one machine: {line.strip()[:80]}"
    for path, text in tree.items()
    for number, line in enumerate(text.splitlines(), 1)
    if _MACHINE_PATH.search(line)
  ]


def phrases(tree: Tree) -> list[str]:
  """Phrases for which the field has a term, in code and pages."""
  return [
    f"{path}:{text.count(chr(10), 0, found.start()) + 1}: {' '.join(found[0].split())!r}; "
    "WORKSPACE.md has a better term"
    for path, text in tree.items()
    if path.startswith(("mg_jax/", "launch/", "experiments/", "docs/")) or path == "README.md"
    if path.endswith((".py", ".sh", ".md"))
    for found in _PHRASE.finditer(text)
  ]


_RULES = (floors, homes, numpy_only, sizes, machine_paths, phrases)

_TESTED = {"tests/a_test.py": "\n" * 400}
_PACKAGES = {f"mg_jax/{f}/__init__.py": "" for floor in FLOORS for f in floor}
_GOOD = {
  "mg_jax/__init__.py": "",
  "mg_jax/data/sources/__init__.py": "",
  "mg_jax/data/text/__init__.py": "",
  **_PACKAGES,
  **_TESTED,
  "mg_jax/core/tree.py": "import jax\n",
  "mg_jax/core/errors.py": "class UserError(Exception): pass\n",
  "mg_jax/models/dit.py": "from mg_jax.nn import linear\nfrom mg_jax.core import tree\n",
  "mg_jax/data/sources/toy.py": "import numpy\nimport grain\nfrom mg_jax.world import scene\n",
  "mg_jax/data/text/prompts.py": "from mg_jax.core import errors\nload(path, allow_pickle=False)\n",
  "mg_jax/train/checkpoint.py": "import orbax.checkpoint as ocp\nmodel.eval()\n",
  "launch/train.py": '"""Doc.\n\nMore.\n"""\n' + "# comment\n\n" * 60 + "x = 1\n" * 60,
  "README.md": "see https://example.org/work and ./root, or gs://bucket/work\n",
  "docs/faults.md": "`test_a_full_disk_is_told`: reported; this told, L2-normalised\n",
  "WORKSPACE.md": "| is told | is reported |\n",
}

_BAD = [
  (floors, "mg_jax/nn/linear.py", "from mg_jax.models import dit"),
  (floors, "mg_jax/nn/linear.py", "def f():\n  from mg_jax.train import loop"),
  (floors, "mg_jax/nn/linear.py", "import mg_jax.losses.flow"),
  (floors, "mg_jax/nn/linear.py", "from ..models import dit"),
  (floors, "mg_jax/nn/linear.py", "from mg_jax import sampling"),
  (floors, "mg_jax/data/reader.py", "from mg_jax.world import scene"),
  (floors, "mg_jax/train/loop.py", "import experiments.t2v"),
  (floors, "mg_jax/extras/thing.py", "import numpy"),
  (homes, "mg_jax/train/loop.py", "import orbax.checkpoint as ocp"),
  (homes, "mg_jax/models/dit.py", "from grain import python"),
  (homes, "mg_jax/models/dit.py", "import torch.nn"),
  (homes, "tests/models/dit_test.py", "import torch"),
  (homes, "mg_jax/train/loop.py", "from absl import logging"),
  (homes, "mg_jax/train/loop.py", "from ml_collections import ConfigDict"),
  (homes, "mg_jax/data/reader.py", "import tensorflow as tf"),
  (homes, "mg_jax/data/reader.py", "import jax.numpy as jnp"),
  (homes, "mg_jax/world/scene.py", "from flax import linen"),
  (homes, "mg_jax/data/reader.py", "def f(path):\n  import pickle"),
  (homes, "mg_jax/data/reader.py", "x = eval(text)"),
  (homes, "mg_jax/data/reader.py", "x = np.load(path, allow_pickle=True)"),
  (numpy_only, "mg_jax/data/reader.py", "from mg_jax.core.tree import flatten_paths"),
  (numpy_only, "mg_jax/world/scene.py", "from mg_jax.core import tree"),
  (sizes, "mg_jax/nn/linear.py", "x = 1\n" * 501),
  (sizes, "launch/plan.py", "x = 1\n" * 61),
  (sizes, "mg_jax/nn/utils.py", "x = 1"),
  (sizes, "mg_jax/nn/deep/linear.py", "x = 1"),
  (machine_paths, "README.md", "run /" + "work/main/launch/train.py"),
  (machine_paths, "launch/pod.sh", "cd /" + "root && ls"),
  (phrases, "README.md", "a mistake is told at once"),
  (phrases, "mg_jax/core/tree.py", '"""Pods that are\n  not here."""'),
  (phrases, "launch/pod.sh", "x=1  # vectors of length\n# one"),
]


@pytest.fixture(scope="module")
def checkout() -> Tree:
  return _checkout()


@pytest.mark.smoke
@pytest.mark.parametrize("rule", _RULES, ids=lambda rule: rule.__name__)
def test_checkout_keeps_the_rule(rule, checkout):
  assert "mg_jax/__init__.py" in checkout
  complaints = rule(checkout)
  assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize("rule", _RULES, ids=lambda rule: rule.__name__)
def test_good_tree_passes(rule):
  assert rule(_GOOD) == []


@pytest.mark.parametrize("rule, path, text", _BAD, ids=[f"{r.__name__}-{p}" for r, p, _ in _BAD])
def test_bad_file_is_named(rule, path, text):
  assert any(complaint.startswith(path) for complaint in rule({**_GOOD, path: text}))


def test_few_tests_are_told():
  assert any("should be a third" in c for c in sizes({**_GOOD, "mg_jax/nn/a.py": "\n" * 450,
                                                      "mg_jax/nn/b.py": "\n" * 450}))  # fmt: skip


_PROBE = """
  import importlib, json, sys
  heavy, names = json.loads(sys.argv[1])
  import mg_jax
  found = [f"mg_jax: imports {m}" for m in ("jax", "numpy") if m in sys.modules]
  for name in names:
    try:
      importlib.import_module(name)
    except ImportError as error:
      found.append(f"{name}: {error}")
    found += [f"{name}: imports {m}" for m in heavy if m in sys.modules]
    heavy = [m for m in heavy if m not in sys.modules]
    bridge = sys.modules.get("jax._src.xla_bridge")
    if bridge is not None and bridge.backends_are_initialized():
      found.append(f"{name}: starts a jax backend")
      break
  print(json.dumps(found))
"""


def _import_complaints(root: Path, names: list[str]) -> list[str]:
  """Imports modules one by one in a fresh process and tells which of them cost too much."""
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(_PROBE), json.dumps([_HEAVY, names])],
    cwd=root, capture_output=True, text=True, timeout=200,
    env={**os.environ, "PYTHONPATH": str(root)},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.smoke
def test_imports_are_light_and_start_no_backend(checkout):
  files = (p for p in checkout if p.startswith("mg_jax/") and p.endswith(".py"))
  names = sorted(p.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for p in files)
  complaints = _import_complaints(_ROOT, names)
  assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize(
  "text, words",
  [("import av", "imports av"), ("import jax.numpy as j\nx = j.ones(2)", "starts a jax backend")],
)
def test_costly_import_is_told(tmp_path, text, words):
  (tmp_path / "mg_jax").mkdir()
  (tmp_path / "mg_jax" / "__init__.py").write_text("")
  (tmp_path / "mg_jax" / "costly.py").write_text(text)
  assert _import_complaints(tmp_path, ["mg_jax.costly"]) == [f"mg_jax.costly: {words}"]
