"""From a training run to something that generates; all of it checked.

A text-to-video run's config names what is needed: "model", the fields of the generator;
"autoencoder", the workdir of the autoencoder's run; "sampling", fields of sampling.pipeline's
Settings; "text", its streams; "latents", a folder, by default `<workdir>/latents`, whose
`manifest.json` holds the statistics that normalised them, with step and fingerprint of the
autoencoder that made them. Where a run names another, a folder of converted weights will do too.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import use_mesh
from mg_jax.core.sharding import placed, replicate, unbox
from mg_jax.core.tree import fingerprint, flatten_paths
from mg_jax.core.typing import DTYPES, PyTree
from mg_jax.data import condition_section
from mg_jax.inference.export import settle
from mg_jax.models.codecs.chunking import ChunkedCodec
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.codecs.tiling import TiledAutoencoder, Tiling
from mg_jax.models.encoders.streams import open_streams
from mg_jax.models.generator import from_config
from mg_jax.models.inputs import abstract_latents, open_conditions
from mg_jax.models.weights import converted
from mg_jax.sampling.pipeline import TextToVideo
from mg_jax.sampling.settings import Settings
from mg_jax.train.runs import Role, latent_statistics, load_role
from mg_jax.train.workdir import beside, resolve


def load_text_to_video(
  workdir: str | os.PathLike[str],
  autoencoder: str | os.PathLike[str] | None = None,
  *,
  step: int | None = None,
  batch: int = 4,
  tiling: Tiling | None = None,
  mesh: Mesh | None = None,
  dtype: str | None = None,
) -> TextToVideo:
  """Loads a text-to-video run with its averaged weights where it kept an average.

  Args:
    workdir: of the run; it may still be training.
    autoencoder: workdir of the autoencoder's run, by default the one the config names; a folder
      of that name beside `workdir` will do when both were moved.
    step: of the generator, by default the newest.
    batch: clips per network call.
    tiling: how clips are decoded that are larger than a tile.
    mesh: the devices that share the work; the generator's weights go straight to their shards.
    dtype: of these weights, by default as saved.

  Raises:
    UserError: when something is missing, damaged, or the autoencoder is not the one whose latents
      the generator learned.
  """
  generator = load_generator(
    workdir, _inputs, stage="flow_matching", step=step, mesh=mesh, dtype=dtype
  )
  return pipeline(
    generator.config, workdir, generator.params, autoencoder=autoencoder, batch=batch,
    tiling=tiling, mesh=mesh, origin=f"step {generator.step}, {generator.digest[:16]}",
  )


def pipeline(
  config: Mapping[str, Any],
  workdir: str | os.PathLike[str],
  params: PyTree,
  *,
  autoencoder: str | os.PathLike[str] | None = None,
  batch: int = 4,
  tiling: Tiling | None = None,
  origin: str = "",
  mesh: Mesh | None = None,
) -> TextToVideo:
  """The sampler for generator parameters that are at hand, as in a preview while training.

  Args:
    config: of the generator's run, plain dicts.
    workdir: of that run, which holds the statistics of its latents.
    params: of the generator, unboxed.
    autoencoder: as in `load_text_to_video`.
    batch: clips per network call.
    tiling: how clips are decoded that are larger than a tile.
    origin: what the record of a clip says of the weights.
    mesh: on which the parameters are.

  Raises:
    UserError: as `load_text_to_video`.
  """
  folder, config = resolve(workdir), settle(config, workdir)
  statistics = latent_statistics(config, folder)
  tae_folder = beside(folder, autoencoder or _entry(config, "autoencoder", folder))
  # The step that made the latents: the autoencoder's run may have gone on since.
  step = encoded_step(statistics, tae_folder)
  tae = load_role(tae_folder, "autoencoder", step=step, stage="autoencoding")
  expected = statistics.get("fingerprint")
  if expected and fingerprint(tae.params) != expected:
    raise UserError(
      f"the autoencoder in {tae_folder} is not the one that made the latents of {folder}; "
      "give that one, or encode and train again"
    )
  _entry(config, "model", folder)
  model = from_config(config)
  trained = model.text_encoders()
  text = open_streams(_entry(config, "text", folder), routes=model.routes(), trained=trained)
  check_encoders(folder, statistics, text=text.identity())
  return TextToVideo(
    tiling=tiling or Tiling(),
    model=model,
    params=params,
    autoencoder=configs.build(TAE, _entry(tae.config, "model", tae_folder), where="autoencoder"),
    autoencoder_params=replicate(tae.params, mesh) if mesh else tae.params,
    mean=np.asarray(statistics["mean"], np.float32),
    std=np.asarray(statistics["std"], np.float32),
    settings=configs.build(Settings, _entry(config, "sampling", folder), where="sampling"),
    text=text.load(mesh),
    mesh=mesh,
    conditions=condition_section.build(config.get("conditions", {})),
    batch=batch,
    origin=origin,
  )


def load_generator(
  workdir: str | os.PathLike[str],
  inputs: Callable[[Mapping[str, Any], tuple[int, ...]], dict[str, Any]],
  *,
  stage: str,
  step: int | None = None,
  mesh: Mesh | None = None,
  dtype: str | None = None,
) -> Role:
  """The generator of a run; on a mesh its weights go straight to their shards.

  Args:
    workdir: of the run.
    inputs: (config, shape of a latent) -> shapes of "latent" and of the conditions by name, of one
      row.
    stage: that the run has to be of.
    step, mesh, dtype: as in `load_text_to_video`.

  Raises:
    UserError: an unknown dtype, and as `load_role`.
  """
  if dtype is not None and dtype not in DTYPES:
    raise UserError(f"dtype is {dtype!r}; known are {', '.join(DTYPES)}")

  def shards(config: Mapping[str, Any]) -> PyTree:
    model, dit = from_config(config), config["model"]["dit"]
    # Parameters do not depend on the size: one token will do.
    batch = inputs(config, (*dit["patch"], dit["channels"]))
    cond = {name: batch[name] for name in model.routes() if name in batch}
    with use_mesh(mesh):
      boxed = jax.eval_shape(
        model.init, jax.random.key(0), batch["latent"],
        jax.ShapeDtypeStruct((1,), jnp.float32), cond,
      )  # fmt: skip
    return placed(boxed["params"], mesh)

  place = shards if mesh else None
  return load_role(
    resolve(workdir), "model", step=step, stage=stage, place=place, dtype=dtype
  )


def _inputs(config: Mapping[str, Any], latent: tuple[int, ...]) -> dict[str, Any]:
  return abstract_latents(open_conditions(config), 1, latent)


def load_autoencoder(
  workdir: str | os.PathLike[str], *, step: int | None = None, tiling: Tiling | None = None
) -> TiledAutoencoder:
  """The autoencoder of a run, ready for clips of any length.

  Args:
    workdir: of the autoencoder's run, which may still be training, or converted weights.
    step: by default the newest.
    tiling: how clips are cut that are larger than a tile.

  Raises:
    UserError: when something is missing or damaged, or weights and config do not belong together.
  """
  model, params = _load_model(workdir, TAE, step=step)
  return TiledAutoencoder(model, params, tiling)


def load_codec(workdir: str | os.PathLike[str], *, step: int | None = None) -> ChunkedCodec:
  """The audio codec of a run, ready for sound of any length.

  Args:
    workdir: of the codec's run, which may still be training, or converted weights.
    step: by default the newest.

  Raises:
    UserError: as `load_autoencoder`.
  """
  return ChunkedCodec(*_load_model(workdir, DACVAE, step=step))


# Class of an autoencoder -> its stage, and the shape of the least that it can be called with.
_AUTOENCODERS = {
  TAE: ("autoencoding", lambda model: (1, 1, *model.factors[1:], 3)),
  DACVAE: ("wave_autoencoding", lambda model: (1, model.hop)),
}


def _load_model(
  workdir: str | os.PathLike[str], kind: type, *, step: int | None
) -> tuple[Any, PyTree]:
  """An autoencoder of this class and its parameters, which fit it."""
  folder = resolve(workdir)
  stage, least = _AUTOENCODERS[kind]
  role = load_role(folder, "autoencoder", step=step, stage=stage)
  model = configs.build(kind, _entry(role.config, "model", folder), where="autoencoder")
  x = jnp.zeros(least(model))
  wanted = unbox(jax.eval_shape(lambda: model.init(jax.random.key(0), x)["params"]))
  wanted, found = flatten_paths(wanted), flatten_paths(role.params)
  for path in sorted(wanted.keys() | found.keys()):
    shapes = [tree[path].shape if path in tree else "nothing" for tree in (wanted, found)]
    if shapes[0] != shapes[1]:
      raise UserError(
        f"{folder}: the config asks for {shapes[0]} at {path} but the checkpoint has {shapes[1]}; "
        "they are of different models"
      )
  return model, role.params


def encoded_step(statistics: Mapping[str, Any], folder: epath.Path) -> int | None:
  """The step of the run in `folder` that encoded latents; None for converted weights."""
  return None if converted.is_converted(folder) else statistics.get("step")


def check_encoders(folder: epath.Path, statistics: Mapping[str, Any], **found: Any) -> None:
  """Checks that frozen encoders are those whose features a generator was trained on.

  Args:
    folder: of the generator's run.
    statistics: the manifest of its latents.
    **found: identity of its encoders now, by the manifest's names.

  Raises:
    UserError: if not.
  """
  for name, identity in found.items():
    if name in statistics and statistics[name] != identity:
      raise UserError(
        f"the {name} encoder of {folder} is not the one that it was trained with; give that one, "
        "or encode and train again"
      )


def _entry(config: Mapping[str, Any], key: str, folder: epath.Path) -> Any:
  if key not in config:
    raise UserError(f'the config saved in {folder} has no "{key}"; give a text-to-video workdir')
  return config[key]
