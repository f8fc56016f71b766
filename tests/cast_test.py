"""The weights that are shipped: what a user can rely on for each."""

import fnmatch
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core import shipped
from mg_jax.evaluation import held_out
from mg_jax.models.weights import converted
from mg_jax.train.runs import load_role

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAMES = shipped.names()
LARGEST, WHOLE = 16e6, 60e6  # bytes
_FILES = [path for path in shipped.FOLDER.rglob("*") if path.is_file()]


def test_there_is_a_cast_and_it_is_small():
  assert NAMES
  sizes = {path: path.stat().st_size for path in _FILES}
  assert max(sizes.values()) <= LARGEST and sum(sizes.values()) <= WHOLE, sizes


def test_a_wheel_carries_every_file():
  text = (ROOT / "setup.py").read_text()
  patterns = json.loads(re.search(r'package_data=\{"mg_jax": (\[.*?\])\}', text)[1])
  for path in _FILES:
    name = path.relative_to(ROOT / "mg_jax").as_posix()
    depth = [p for p in patterns if p.count("/") == name.count("/") and fnmatch.fnmatch(name, p)]
    assert depth, f"{name} is in no wheel"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_each_loads_in_every_dtype(name, dtype):
  params = converted.load_params(name, dtype=dtype)
  leaves = jax.tree.leaves(params)
  wanted = jnp.dtype(dtype or converted.described(name)["dtype"])
  assert {leaf.dtype for leaf in leaves} == {wanted}
  assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in leaves)


@pytest.mark.parametrize("name", NAMES)
def test_each_has_its_recipe_and_its_place_on_the_page(name):
  found = converted.described(name)
  recipe = found["run"]["train"]["experiment"]
  assert (ROOT / "experiments" / f"{recipe}.py").is_file()
  assert found["step"] > 0 and found["seconds"] > 0
  page = (ROOT / "docs" / "cast.md").read_text()
  assert f"`{name}`" in page and found["sha256"][:12] in page, "docs/cast.md is of other weights"


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if converted.described(n)["kind"] != "run"])
def test_each_scores_on_fresh_seeds_as_the_page_says(name, tmp_path):
  figure = json.loads((ROOT / f"docs/figures/cast_{name.split('/')[1]}.json").read_text())
  _, rates = held_out.score_held_out(name, tmp_path, count=64, seed=1000)
  for metric, rate in rates.items():
    said = figure["values"][metric]
    reach = said["high"] - said["low"]
    assert said["low"] - reach <= rate["mean"] <= said["high"] + reach, metric
  assert load_role(name, held_out._ROLES[converted.described(name)["run"]["stage"]]).step > 0
