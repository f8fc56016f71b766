"""Configs: typed argument strings, sections checked against dataclass fields, short errors."""

import dataclasses
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Literal

import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from mg_jax.core.config import build, parse_arg, to_dict
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
  ],
)
def test_wrong_key_and_wrong_type_are_named(section, words):
  with pytest.raises(UserError, match=words):
    build(Optimizer, section, where="optim")


def test_a_missing_field_is_a_user_error():
  with pytest.raises(UserError, match="model.*width"):
    build(Model, {}, where="model")


def test_linen_bookkeeping_is_not_part_of_the_schema():
  with pytest.raises(UserError, match="no field 'parent'"):
    build(Model, {"width": 8, "parent": None})


def test_to_dict_is_ready_for_json():
  config = ConfigDict({"a": {"b": (1, (2, 3))}, "c": "x"})
  assert to_dict(config) == {"a": {"b": [1, [2, 3]]}, "c": "x"}


def test_a_user_error_is_one_line_and_exit_code_2():
  program = textwrap.dedent("""
    from mg_jax.core import config, errors
    def main(argv):
      raise errors.UserError("no such folder; make it first")
    config.run(main)
  """)
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, cwd=_ROOT, timeout=60
  )
  assert done.returncode == 2
  assert done.stderr.strip().splitlines()[-1] == "error: no such folder; make it first"
  assert "Traceback" not in done.stderr
