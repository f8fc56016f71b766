"""One entry of the config adds a condition to a generator, whatever its kind."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.tree import flatten_paths
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.data.transforms import LatentRow
from mg_jax.models.generator import from_config
from mg_jax.models.inputs import open_conditions, text_streams
from mg_jax.stages.table import stage_of
from mg_jax.train.state import abstract_params
from tests.train import tiny

MADE_UP = {
  "concat": {"kind": "latent", "channels": 2, "route": {"kind": "concat", "features": 3}},
  "modulate": {"kind": "class_id", "classes": 3, "route": {"kind": "modulate", "classes": 3}},
  "cross": {
    "kind": "class_id", "classes": 3, "route": {"kind": "cross", "classes": 3, "tokens": 2}
  },
  "clean": {"kind": "mask", "route": {"kind": "clean"}},
  "cross_image": {
    "kind": "image", "size": 8, "count": 2,
    "encoder": {"size": 8, "patch": 4, "width": 16, "layers": 1, "heads": 1, "mlp_dim": 16,
                "projection": None},
    "route": {"kind": "cross", "features": 16},
  },
}  # fmt: skip


def _open(config):
  """The objective of a config, shapes of its batch, and the transform that makes its rows."""
  stage = stage_of(config)
  data = configs.build(DataConfig, config["data"])
  objective = stage.objective(config, data)
  abstract, _ = stage.abstract_batch(config, data)
  return objective, abstract, LatentRow(
    open_conditions(config, text_streams(config, objective.model))
  )


def _record(grid, channels):
  """What a record holds with every condition of MADE_UP under the name "new"."""
  rng, mask = np.random.default_rng(0), np.zeros(grid, bool)
  mask[..., 0] = True
  return {
    "latent": rng.normal(size=(*grid, channels)).astype(np.float32), "fps": 8.0,
    "captions": ["a star"],
  }, {
    "latent": {"latent/new": rng.normal(size=(1, *grid[1:], channels)).astype(np.float32)},
    "class_id": {"given/new": 1}, "mask": {"given/new": mask},
    "image": {"given/new": rng.integers(0, 256, (1, 8, 8, 3), np.uint8)},
  }  # fmt: skip


def _batch(row, *records):
  rows = [row(index, record, np.random.default_rng(0)) for index, record in enumerate(records)]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


@pytest.mark.parametrize(
  "route",
  ["concat", "modulate", "cross_image"]
  + [pytest.param(r, marks=pytest.mark.slow) for r in ("cross", "clean")],
)
def test_an_entry_of_the_config_is_a_condition_that_trains(route, tmp_path, awaken):
  config, entry = tiny.t2v(tmp_path), MADE_UP[route]
  objective, abstract, row = _open(config | {"conditions": {"new": entry}})
  objective = dataclasses.replace(objective, drop={"new": 0.0})
  record, told = _record(abstract["latent"].shape[1:4], abstract["latent"].shape[4])
  batch = _batch(row, record | told[entry["kind"]], record)
  null = _batch(row, record, record)

  def shapes(tree):
    return jax.tree.map(lambda a: (a.shape, jnp.dtype(a.dtype).name), tree)

  assert shapes(abstract) == shapes({name: batch[name] for name in abstract})
  wanted = _open(config)[1]
  assert abstract.keys() - wanted.keys() == {"new"}
  params = awaken(abstract_params(objective, abstract))

  def loss(params, batch, objective=objective):
    return objective.loss("model", params, batch, jax.random.key(0), 0, {})[0]

  run = jax.jit(jax.value_and_grad(loss))
  value, grads = run(params, batch)
  grads = flatten_paths(grads)
  assert all(np.isfinite(leaf).all() for leaf in grads.values())
  learned = {path for path in grads if f"/new_{entry['route']['kind']}/" in path}
  assert bool(learned) == (route != "clean")
  assert all(np.any(grads[path] != 0) for path in learned)
  without, _ = run(params, null)
  assert abs(value - without) > 1e-5
  dropped = jax.jit(
    lambda p, b: loss(p, b, dataclasses.replace(objective, drop={"new": 1.0}))
  )(params, batch)
  assert float(dropped) == pytest.approx(float(without), rel=1e-5)


def test_a_condition_has_one_place_for_its_routes(tmp_path):
  config = tiny.t2v(tmp_path)
  twice = config | {"conditions": {"text": MADE_UP["modulate"]}}
  with pytest.raises(UserError, match="'text' has a route in model.dit.routes and in conditions"):
    from_config(twice)
  with pytest.raises(UserError, match="conditions.new has no route"):
    from_config(config | {"conditions": {"new": {"kind": "mask"}}})
  before = from_config(config)
  added = from_config(config | {"conditions": {"new": MADE_UP["clean"]}})
  assert added.routes().keys() - before.routes().keys() == {"new"}
  assert "conditions" not in config and from_config(config).routes() == before.routes()


def test_conditions_of_text_say_what_a_batch_carries_of_it(tmp_path):
  """Ids for an encoder that is trained, features for one that is frozen."""
  config = tiny.t2v(tmp_path)
  [found] = open_conditions(config).values()
  assert found.null((1, 1, 1))["ids"].shape == (12,) and not found.cached
  config["model"]["encoders"] = {}
  for cache in (True, False):
    config["text"]["text"] |= {"encoder": "somewhere", "cache": cache}
    [found] = open_conditions(config).values()
    assert found.null((1, 1, 1))["features"].shape == (12, 16) and found.cached == cache
