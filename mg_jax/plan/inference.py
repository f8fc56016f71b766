"""Inference programs to plan: a guided solver step of a generator, tiles of an autoencoder.

A solver step is planned as sampling runs it: one batched call for all branches of guidance, then
Euler or midpoint [MG 3.4]. A clip is encoded or decoded in tiles of `models.codecs.tiling`; here
every device holds all weights and processes one tile at a time, so that a clip takes as many rounds
as tiles per device [MG 3.1.1].
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import batch_axes, use_mesh
from mg_jax.core.pixels import from_uint8
from mg_jax.core.sharding import batch_sharding, placed, replicated
from mg_jax.core.tree import count_params
from mg_jax.core.typing import PyTree
from mg_jax.kernels.platform import platform
from mg_jax.models import conditioning, zoo
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.codecs.tiling import Tiling, spans
from mg_jax.models.encoders.streams import Streams
from mg_jax.models.generator import from_config
from mg_jax.models.inputs import open_conditions
from mg_jax.plan.program import Program, check_divides, device_bytes, row_bytes, section
from mg_jax.plan.training import latent_tokens
from mg_jax.sampling import guidance as cfg
from mg_jax.sampling.guided import sample_latents
from mg_jax.sampling.settings import Settings
from mg_jax.train import flops
from mg_jax.train.state import abstract_batch, abstract_key, as_abstract


def sampling(config: Mapping[str, Any], mesh: Mesh, size: Mapping[str, int]) -> Program:
  """One guided solver step of one clip.

  Args:
    config: config of a generator.
    mesh: its batch axes split the branches of guidance, the others the clip and the layers.
    size: frames, height and width if they differ from the config's.

  Raises:
    UserError: on a config without a generator, and on sizes that do not divide over the mesh.
  """
  if config.get("stage") != "flow_matching":
    raise UserError(
      f"stage {config.get('stage')!r} has no generator to sample with; give one of "
      "experiments/t2i_256.py, t2v_256.py or t2v_768.py"
    )
  settings = configs.build(Settings, {**section(config, "sampling"), **size}, where="sampling")
  clip, dit = (settings.frames, settings.height, settings.width), config["model"]["dit"]
  model = from_config(config)
  text = tuple(config["text"])
  branches = cfg.branches(
    settings.guidance, (*text, *config.get("conditions", {})), default=text
  )
  latent = TAE(latent=dit["channels"], parent=None).latent_shape(*clip)
  rows, tokens = len(branches), latent_tokens(dit, latent[:3])
  check_divides(mesh, rows=rows, tokens=tokens, heads=dit["heads"], what="branches of guidance")
  cond = conditioning.abstract(open_conditions(config), 1, latent[:3])
  cond |= {name: _features(cond[name], dit["routes"][name]["features"]) for name in config["text"]}
  params = _placed(
    lambda key: model.init(
      key, jnp.zeros((1, *latent)), jnp.zeros((1,)),
      jax.tree.map(lambda a: jnp.zeros((1, *a.shape[1:]), a.dtype), cond),
    )["params"],
    mesh,
  )  # fmt: skip

  def step(params, x, times, cond):
    return sample_latents(
      model, Streams({}), branches, params, {}, cond, x, times, method=settings.method
    )

  whole = lambda *shape: jax.ShapeDtypeStruct(  # noqa: E731
    shape, jnp.float32, sharding=replicated(mesh)
  )
  # One clip is on all devices; its branches are spread.
  cond = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=replicated(mesh)), cond
  )
  args = params, whole(1, *latent), whole(2), cond
  count, blocks = _flops(step, *args), zoo.block_parameters(params)
  evaluations = rows * (2 if settings.method == "midpoint" else 1)
  formula = 2 * blocks * tokens + 4 * dit["layers"] * dit["width"] * tokens**2
  return Program(
    lower=lambda: _lower(step, mesh, args, donate=1),
    held={"params": device_bytes(params), "optimizer": 0, "ema": 0, "batch": device_bytes(cond)},
    clip=clip, rows=rows, tokens=tokens, calls=settings.steps, parameters=count_params(params),
    block_parameters=blocks, model_flops=count, hardware_flops=count,
    formula_flops=float(evaluations * formula),
  )  # fmt: skip


def coding(
  config: Mapping[str, Any], mesh: Mesh, size: Mapping[str, int], *, what: str,
  tiling: Tiling | None = None,
) -> Program:
  """Tiles of one clip, encoded or decoded, one on each device.

  Args:
    config: config of an autoencoder.
    mesh: its batch axes split the tiles.
    size: frames, height and width if they differ from the config's.
    what: "encode" or "decode".
    tiling: how the clip is tiled.

  Raises:
    UserError: on a config without an autoencoder, and on sides that it does not support.
  """
  if config.get("stage") != "autoencoding":
    raise UserError(
      f"stage {config.get('stage')!r} has no autoencoder to {what} with; give experiments/tae.py "
      "or experiments/tae_image.py"
    )
  model = configs.build(TAE, config["model"], where="model", parent=None)
  data = config["data"]
  clip = tuple(size.get(name, data[name]) for name in ("frames", "height", "width"))
  tile, tiles = tiles_of(model, tiling or Tiling(), clip, what=what)
  ways = batch_axes(mesh)
  if ways != mesh.size:
    raise UserError(
      f"mesh {tuple(mesh.shape.values())} splits tiles over context or tensor, which an "
      f"autoencoder does not use; give --mesh={mesh.size},1,1,1"
    )
  params = _placed(lambda key: model.init(key, jnp.zeros((1, *tile, 3)))["params"], mesh)
  shape = jax.ShapeDtypeStruct
  if what == "encode":
    batch = shape((ways, *tile, 3), jnp.uint8)

    def code(params, video):
      video = from_uint8(video)
      return model.apply({"params": params}, video, method="encode")[0]
  else:
    batch = shape((ways, *model.latent_shape(*tile)), jnp.float32)

    def code(params, latent):
      return model.apply({"params": params}, latent, frames=tile[0], method="decode")

  count = _flops(code, params, batch)
  return Program(
    lower=lambda: _lower(
      code, mesh, (params, abstract_batch(batch, mesh)), out_shardings=batch_sharding(mesh)
    ),
    held={"params": device_bytes(params), "optimizer": 0, "ema": 0,
          "batch": row_bytes(batch, mesh)},
    clip=tile, rows=ways, calls=-(-tiles // ways), parameters=count_params(params),
    model_flops=count, hardware_flops=count,
  )  # fmt: skip


def tiles_of(
  model: TAE, tiling: Tiling, clip: tuple[int, int, int], *, what: str
) -> tuple[tuple[int, int, int], int]:
  """((frames, height, width) of a tile, tiles of a clip), as in `models.codecs.tiling`."""
  time, *factors = model.factors
  _, *grid, _ = model.latent_shape(*clip)
  cuts = [
    spans(n, size=tiling.side // factor, overlap=tiling.border // factor)
    for n, factor in zip(grid, factors, strict=True)
  ]
  sides = [side * factor for (side, _), factor in zip(cuts, factors, strict=True)]
  overlap = tiling.overlap if what == "decode" and time > 1 else 0
  along = 1 + max(0, -(-(clip[0] - tiling.frames) // (tiling.frames - overlap)))
  tile = min(clip[0], tiling.frames), sides[0], sides[1]
  return tile, along * math.prod(len(starts) for _, starts in cuts)


def _features(entry: Mapping[str, Any], width: int) -> dict[str, Any]:
  """A text condition as passed to every solver step: encoded once before the first."""
  shape = (*entry["mask"].shape, width)
  return {"features": jax.ShapeDtypeStruct(shape, jnp.float32), "mask": entry["mask"]}


def _placed(init, mesh: Mesh) -> PyTree:
  """Shapes of parameters with their shardings on the mesh."""
  with use_mesh(mesh):
    return placed(jax.eval_shape(init, abstract_key()), mesh)


def _flops(fn, *args) -> float:
  with platform("cpu"):
    return flops.count(fn, *as_abstract(args))


def _lower(fn, mesh: Mesh, args, *, donate: int | tuple = (), **kwargs) -> jax.stages.Lowered:
  with use_mesh(mesh):
    return jax.jit(fn, donate_argnums=donate, **kwargs).lower(*args)
