"""Configs: typed argument strings, sections checked against dataclass fields, short errors."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from mg_jax.core.config import build, parse_arg, section, to_dict
from mg_jax.core.errors import UserError

_ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Optimizer:
  rate: float = 1e-3
  steps: int = 10
  name: Literal["adamw", "sgd"] = "adamw"
  sizes: tuple[int, ...] = (1, 2)
  clip: float | None = None
  nesterov: bool = False
  pairs: tuple[tuple[str, float], ...] = ()
  rates: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Run:
  seed: int = 0
  optim: Optimizer = Optimizer()


@dataclasses.dataclass(frozen=True)
class Runs:
  others: Mapping[str, Optimizer] = dataclasses.field(default_factory=dict)


class Model(nn.Module):
  width: int
  depth: int = 2


def test_argument_strings_carry_the_types_of_the_defaults():
  arg = parse_arg("tiny,frames=8,rate=0.5,name=x", tiny=False, frames=4, rate=1.0, name="", fps=16)
  assert arg.to_dict() == {"tiny": True, "frames": 8, "rate": 0.5, "name": "x", "fps": 16}


@pytest.mark.parametrize("text, value", [("tiny", True), ("tiny=false", False), ("tiny=1", True)])
def test_bool_arguments(text, value):
  assert parse_arg(text, tiny=False).tiny is value


@pytest.mark.parametrize("empty", ["", None])
def test_empty_argument_gives_the_defaults(empty):
  assert parse_arg(empty, frames=4).frames == 4


@pytest.mark.parametrize(
  "text, words",
  [
    ("framse=8", "'framse'.*'frames'"),
    ("frames=eight", "'frames=eight'.*int"),
    ("frames", "'frames' needs a value"),
    ("tiny=maybe", "'tiny=maybe'.*bool"),
  ],
)
def test_wrong_argument_is_a_user_error(text, words):
  with pytest.raises(UserError, match=words):
    parse_arg(text, frames=4, tiny=False)


def test_a_section_becomes_its_dataclass():
  section = ConfigDict({"rate": 1, "sizes": [3, 4], "clip": 0.5})
  got = build(Optimizer, section)
  assert got == Optimizer(rate=1, sizes=(3, 4), clip=0.5)


def test_a_section_becomes_a_linen_module():
  assert build(Model, {"width": 8}, where="model") == Model(width=8, depth=2)


@pytest.mark.parametrize(
  "section, words",
  [
    ({"raet": 1.0}, "no field 'raet'.*'rate'"),
    ({"steps": "ten"}, "optim.steps is 'ten'.*int"),
    ({"steps": True}, "optim.steps is True"),
    ({"rate": "0.1"}, "optim.rate is '0.1'"),
    ({"nesterov": 1}, "optim.nesterov is 1"),
    ({"name": "adam"}, "optim.name is 'adam'"),
    ({"clip": "high"}, "optim.clip is 'high'"),
    ({"sizes": 3}, "optim.sizes is 3"),
    ({"sizes": ("abc",)}, "optim.sizes is .'abc',.*int"),
    ({"pairs": (("a", "b"),)}, "optim.pairs is"),
    ({"pairs": (("a", 1.0, 2.0),)}, "optim.pairs is"),
    ({"rates": {"text": "high"}}, "optim.rates is"),
  ],
)
def test_wrong_key_and_wrong_type_are_named(section, words):
  with pytest.raises(UserError, match=words):
    build(Optimizer, section, where="optim")


def test_a_missing_field_is_a_user_error():
  with pytest.raises(UserError, match="model.*width"):
    build(Model, {}, where="model")


def test_sections_by_name_become_their_dataclass():
  config = {"others": {"a": {"steps": 3}, "b": {"rates": {"text": 0.1}}}}
  runs = build(Runs, config)
  assert runs.others == {"a": Optimizer(steps=3), "b": Optimizer(rates={"text": 0.1})}
  assert build(Runs, {"others": {"a": Optimizer()}}).others == {"a": Optimizer()}
  with pytest.raises(UserError, match="runs.others.a has no field 'setps'"):
    build(Runs, {"others": {"a": {"setps": 3}}}, where="runs")
  with pytest.raises(UserError, match="runs.others is {'a': 3}, which is not of type .*Mapping"):
    build(Runs, {"others": {"a": 3}}, where="runs")


def test_a_nested_section_becomes_its_dataclass():
  run = build(Run, {"optim": {"steps": 3, "pairs": [["a", 1]], "rates": {"text": 0.1}}})
  assert run.optim == Optimizer(steps=3, pairs=(("a", 1),), rates={"text": 0.1})
  with pytest.raises(UserError, match="config run.optim has no field 'setps'.*'steps'"):
    build(Run, {"optim": {"setps": 3}}, where="run")
  with pytest.raises(UserError, match="run.optim.steps is 'x', which is not of type int"):
    build(Run, {"optim": {"steps": "x"}}, where="run")


def test_a_section_reaches_every_field_with_its_type():
  config = section(Run, seed=3)
  assert set(config.optim) == {f.name for f in dataclasses.fields(Optimizer)}
  assert config.seed == 3 and config.optim.rate == 1e-3 and config.optim.sizes == (1, 2)
  with pytest.raises(TypeError):
    config.optim.steps = "ten"
  config.optim.clip = 0.5  # a default of None holds a later value to no type
  assert build(Run, config) == Run(seed=3, optim=Optimizer(clip=0.5))
  with pytest.raises(UserError, match="no field 'sede'.*'seed'"):
    section(Run, sede=3)


def test_linen_bookkeeping_is_not_part_of_the_schema():
  with pytest.raises(UserError, match="no field 'parent'"):
    build(Model, {"width": 8, "parent": None})


def test_to_dict_is_ready_for_json():
  config = ConfigDict({"a": {"b": (1, (2, 3))}, "c": "x"})
  assert to_dict(config) == {"a": {"b": [1, [2, 3]]}, "c": "x"}


_EXPERIMENT = """
from ml_collections import ConfigDict
from mg_jax.core.config import parse_arg

def get_config(arg=None):
  args = parse_arg(arg, tiny=False, fault="")
  config = ConfigDict({"a": {"steps": 1, "sizes": (1, 2), "flag": True, "rate": 0.1}})
  if args.fault == "name":
    config.b.steps = 3
  if args.fault == "value":
    int("x")
  return config
"""
_MAIN = """
import errno, json, os, sys
from absl import flags
from ml_collections import config_flags
from mg_jax.core import config, errors

CONFIG = config_flags.DEFINE_config_file("config")
FAULT = flags.DEFINE_string("fault", "", "What main raises.")
FAULTS = {
  "user": errors.UserError("no such folder; make it first"),
  "full": OSError(errno.ENOSPC, "", "there/clip.mp4"),
  "lost": OSError(errno.ENOENT, "", "part"),
  "keys": KeyboardInterrupt(),
  "text": errors.UserError("odd \\udc80 name"),
}

def main(argv):
  if FAULT.value:
    raise FAULTS[FAULT.value]
  print(json.dumps(config.to_dict(CONFIG.value)))

results = []
for arguments in json.loads(sys.argv[1]):  # each in a process of its own, as flags parse only once
  out, err = open("out", "w+"), open("err", "w+")
  child = os.fork()
  if not child:
    os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
    sys.argv = ["main", *arguments]
    config.run(main)
  code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  results.append([code, open("out").read(), open("err").read()])
print(json.dumps(results))
"""


def _run(folder: Path, *commands: list[str]) -> list[tuple[int, str, str]]:
  """Exit code, stdout and stderr of a small main for each of some lists of arguments."""
  (folder / "exp.py").write_text(_EXPERIMENT)
  done = subprocess.run(
    [sys.executable, "-c", _MAIN, json.dumps(commands)],
    capture_output=True, text=True, cwd=folder, timeout=120,
    env={**os.environ, "PYTHONPATH": str(_ROOT)},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return [tuple(item) for item in json.loads(done.stdout)]


def test_a_user_error_is_one_line_and_exit_code_2(tmp_path):
  faults = {
    "user": (2, "error: no such folder; make it first"),
    "full": (
      2,
      "error: there/clip.mp4 cannot be written, the disk is full; free some space and run the "
      "same command again",
    ),
    "keys": (130, "interrupted"),
    "text": (2, "error: odd \\udc80 name"),
  }
  for (code, _, err), expected in zip(
    _run(tmp_path, *([f"--fault={name}"] for name in faults)), faults.values(), strict=True
  ):
    assert (code, err.strip()) == expected


def test_a_bug_keeps_its_traceback(tmp_path):
  ((code, _, err),) = _run(tmp_path, ["--fault=lost"])
  assert code == 1 and "Traceback" in err


def test_overrides_reach_the_config(tmp_path):
  good = ["--config=exp.py:tiny", "--config.a.steps=5", "--noconfig.a.flag", "--config.a.sizes=4"]
  spaced = ["--config", "exp.py", "--config.a.rate", "0.5"]
  (code, out, err), (_, second, _) = _run(tmp_path, good, spaced)
  assert code == 0 and not err
  assert json.loads(out) == {"a": {"steps": 5, "sizes": [4], "flag": False, "rate": 0.1}}
  assert json.loads(second)["a"]["rate"] == 0.5


def test_mistakes_on_the_command_line_are_one_sentence(tmp_path):
  (tmp_path / "syntax.py").write_text("def get_config(:\n")
  (tmp_path / "empty.py").write_text("x = 1\n")
  (tmp_path / "other.py").write_text("def get_config():\n  return {}\n")
  cases = [
    (["--config=exp.py", "--config.a.stesp=5"], "--config.a.stesp: a has no field 'stesp'; did"),
    (["--config=exp.py", "--config.b.c=5"], "the config has no field 'b'; known are a"),
    (["--config=exp.py", "--config.a.steps.c=5"], "steps has no field 'c'"),
    (["--config=exp.py", "--config.a.=5"], "a has no field ''"),
    (["--config=exp.py", "--config.a.steps=abc"], "steps=abc is not of type int; an example is 1"),
    (["--config=exp.py", "--config.a.flag=maybe"], "flag=maybe is not of type bool"),
    (["--config=exp.py", "--config.a=5"], "--config.a is a section; set one of its fields: flag"),
    (["--config=exp.py:tiny,foo=3"], "config argument 'foo' is unknown"),
    (["--config=nothing.py:tiny", "--config.a.b=1"], "--config=nothing.py:tiny names no file"),
    (["--config"], "names no file"),
    (["--config=exp.py:fault=name"], "exp.py line 9: AttributeError"),
    (["--config=exp.py:fault=value"], "exp.py line 11: ValueError: invalid literal"),
    (["--config=syntax.py"], "syntax.py line 1: SyntaxError"),
    (["--config=empty.py"], "no attribute 'get_config'"),
    (["--config=other.py"], "other.py returns no ConfigDict"),
    (["--config.a.steps=1", "--config=exp.py"], "before a value for --config"),
    (["--stesp=3"], "Unknown command line flag 'stesp'; see --help"),
  ]
  results = _run(tmp_path, *(arguments for arguments, _ in cases))
  for (arguments, words), (code, out, err) in zip(cases, results, strict=True):
    assert code == 2 and not out, arguments
    assert words in err and len(err.splitlines()) == 1 and err.startswith("error: "), err
  ((code, out, _),) = _run(tmp_path, ["--help"])
  assert code == 0 and "USAGE" in out


@pytest.mark.parametrize("arguments, words, code", [
  (["--help"], 1, 141), (["--help"], 9999, 141), (["--rows=9"], 1, 141),
  (["--rows=99999"], 1, 141), (["--fault"], 1, 2),
])  # fmt: skip
def test_a_closed_pipe_is_no_error(tmp_path, arguments, words, code):
  main = tmp_path / "main.py"
  main.write_text(
    "import os\n"
    "from absl import flags\n"
    "from mg_jax.core import config\n"
    "from mg_jax.core.errors import UserError\n"
    "flags.DEFINE_integer('rows', 0, 'Rows. ' * int(os.environ['WORDS']))\n"
    "flags.DEFINE_bool('fault', False, 'Whether to fail.')\n"
    "def main(argv):\n"
    "  if flags.FLAGS.fault:\n"
    "    raise UserError('no rows')\n"
    "  for row in range(flags.FLAGS.rows):\n"
    "    print(row)\n"
    "config.run(main)\n"
  )
  reader, writer = os.pipe()
  os.close(reader)
  done = subprocess.run(
    [sys.executable, main, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True,
    timeout=60, env={**os.environ, "PYTHONPATH": str(_ROOT), "WORDS": str(words)},
  )  # fmt: skip
  os.close(writer)
  assert done.returncode == code
  assert done.stderr == ("error: no rows\n" if code == 2 else "")
