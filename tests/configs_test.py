"""Goldens of every recipe: the whole config at paper size, and what each variant changes in it."""

import os
from pathlib import Path

import pytest

from mg_jax.core import config as configs
from tests.train import tiny
from tests.train.tiny import NAMES

_ROOT = Path(__file__).resolve().parents[1]
_GOLDENS = _ROOT / "tests/goldens/configs"
_PHASES = {"t2v_256": (2,), "t2v_768": (2, 3, 4)}
_OTHERS = {
  "dacvae": ("tiny,toy",), "t2i_256": ("model=5b", "tiny,size=64", "tiny,frames=8,letters"),
  "tae": ("tiny,size=64,frames=8",), "clip": ("model=h14",), "soundtrack": ("model=300m",),
}  # fmt: skip


def _flat(tree, prefix=""):
  """(key, value) of every leaf, in the order of the config."""
  for name, value in tree.items():
    if isinstance(value, dict) and value:
      yield from _flat(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", value


def _text(name):
  base = dict(_flat(configs.to_dict(tiny.load(name))))
  lines = [f"{key} = {value!r}" for key, value in base.items()]
  phases = [f"{size}phase={p}" for p in _PHASES.get(name, ()) for size in ("", "tiny,")]
  for variant in ("tiny", *phases, *_OTHERS.get(name, ())):
    found = dict(_flat(configs.to_dict(tiny.load(name, variant))))
    lines += ["", f"[{variant}]", *(f"without {key}" for key in base if key not in found)]
    lines += [
      f"{key} = {value!r}"
      for key, value in found.items()
      if key not in base or repr(base[key]) != repr(value)
    ]
  return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_its_golden(name):
  text, path = _text(name), _GOLDENS / f"{name}.txt"
  if os.environ.get("MG_UPDATE_GOLDENS"):
    path.write_text(text)
  assert path.read_text() == text, (
    f"experiments/{name}.py changed; where that is meant, run "
    f"MG_UPDATE_GOLDENS=1 bash launch/test.sh tests/configs_test.py"
  )


def test_every_golden_has_its_recipe():
  assert sorted(path.stem for path in _GOLDENS.iterdir()) == NAMES
