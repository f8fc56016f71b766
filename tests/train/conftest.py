"""A tiny two-role objective and an endless stream of numpy batches for the tests of training."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.mesh import make_mesh
from mg_jax.core.sharding import partitioned
from mg_jax.train.optim import OptimConfig, build_optimizers
from mg_jax.train.state import create_state
from mg_jax.train.step import StepConfig, build_step

BATCH, WIDTH = 16, 8


class Net(nn.Module):
  """Two matrices, a bias and a norm scale, with logical axes."""

  hidden: int = 16

  @nn.compact
  def __call__(self, x):
    init = nn.initializers.lecun_normal()
    w = self.param("in_kernel", partitioned(init, "embed", "mlp"), (x.shape[-1], self.hidden))
    b = self.param("bias", partitioned(nn.initializers.zeros, "mlp"), (self.hidden,))
    s = self.param("norm_scale", partitioned(nn.initializers.ones, None), (self.hidden,))
    v = self.param("out_kernel", partitioned(init, "mlp", "embed"), (self.hidden, x.shape[-1]))
    return (jnp.tanh(x @ w + b) * s) @ v


@dataclasses.dataclass(frozen=True)
class Pair:
  """A regressor and a critic that scores its error; `noise` makes the loss random."""

  noise: float = 0.1
  hidden: int = 16
  roles: tuple[str, ...] = ("model", "critic")

  def init(self, key, batch):
    x = jnp.zeros((1, batch["x"].shape[-1]))
    keys = dict(zip(self.roles, jax.random.split(key, len(self.roles)), strict=True))
    return {r: {"net": Net(self.hidden).init(keys[r], x)["params"]} for r in self.roles}

  def loss(self, role, params, batch, key, step, carry):
    if role == "model":
      x = batch["x"] + self.noise * jax.random.normal(key, batch["x"].shape)
      error = Net(self.hidden).apply({"params": params["model"]["net"]}, x) - batch["y"]
      loss = jnp.mean(error**2)
      return loss, ({"error": jnp.mean(jnp.abs(error))}, {"error": error})
    error = jax.lax.stop_gradient(carry["error"])
    score = Net(self.hidden).apply({"params": params["critic"]["net"]}, error)
    return jnp.mean((score - 1.0) ** 2), ({}, carry)

  def evaluate(self, params, batch, key):
    out = Net(self.hidden).apply({"params": params["model"]["net"]}, batch["x"])
    rows = jnp.mean((out - batch["y"]) ** 2, axis=-1)
    valid = batch.get("valid", jnp.ones(rows.shape)).astype(jnp.float32)
    return {"mse": jnp.sum(rows * valid) / jnp.maximum(jnp.sum(valid), 1.0)}


@dataclasses.dataclass(frozen=True)
class Taught(Pair):
  """A pair whose model learns what a frozen teacher makes of the clean input."""

  frozen = ("teacher",)

  def init(self, key, batch):
    x = jnp.zeros((1, batch["x"].shape[-1]))
    teacher = Net(self.hidden).init(jax.random.fold_in(key, 1), x)["params"]
    return super().init(key, batch) | {"teacher": {"net": teacher}}

  def loss(self, role, params, batch, key, step, carry):
    taught = Net(self.hidden).apply({"params": params["teacher"]["net"]}, batch["x"])
    return super().loss(role, params, {**batch, "y": taught}, key, step, carry)


class Stream:
  """Batch n is a function of n; `poison` maps batch numbers to a value put into one element."""

  def __init__(self, *, size: int = BATCH, end: int | None = None, poison: Mapping | None = None):
    self.size, self.end, self.poison = size, end, dict(poison or {})
    self.position = 0
    self.drawn: list[int] = []

  def __iter__(self):
    return self

  def __next__(self):
    if self.position == self.end:
      raise StopIteration
    number, self.position = self.position, self.position + 1
    self.drawn.append(number)
    draw = np.random.default_rng(number)
    x = draw.normal(size=(self.size, WIDTH)).astype(np.float32)
    batch = {"x": x, "y": np.sin(x), "index": np.arange(self.size, dtype=np.int32) + 100 * number}
    if number in self.poison:
      batch["y"][3, 2] = self.poison[number]
    return {**batch, "caption": np.array(["a"] * self.size)}

  def get_state(self):
    return {"next": self.position}

  def set_state(self, state):
    self.position = state["next"]


def make_setup(objective=None, mesh_shape=(1, 1, 1, 1), config=None, optim=None, batch=None):
  """Everything a single step needs; frozen roles have random values."""
  objective = objective or Pair(roles=("model",))
  config = config or StepConfig(steps=10, ema=0.9)
  mesh = make_mesh(mesh_shape)
  optimizers = build_optimizers(optim or OptimConfig(lr=1e-2), objective.roles)
  batch = batch or {k: v for k, v in next(Stream()).items() if k != "caption"}
  state = create_state(
    objective, optimizers, mesh, batch, jax.random.key(0), **config.state_args
  )
  draw = np.random.default_rng(0)
  state = state.replace(frozen=jax.tree.map(
    lambda x: jax.device_put(draw.normal(size=x.shape).astype(x.dtype), x.sharding), state.frozen
  ))  # fmt: skip
  step = build_step(objective, optimizers, config, mesh, state=state)
  return SimpleNamespace(
    objective=objective, config=config, mesh=mesh, optimizers=optimizers, batch=batch, state=state,
    step=step, key=jax.random.key(1), clock=jnp.float32(0.0),
  )


@pytest.fixture
def toy():
  """The building blocks above."""
  return SimpleNamespace(
    Pair=Pair, Taught=Taught, Stream=Stream, setup=make_setup, file=Path(__file__)
  )
