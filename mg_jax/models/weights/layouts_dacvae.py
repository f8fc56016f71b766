"""Layout of the audio codec, by the names of Meta's DACVAE [MG 6.2]."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mg_jax.core.errors import UserError
from mg_jax.models.codecs.dacvae import DACVAE, DILATIONS
from mg_jax.models.weights.kinds import Config, Layout, Place

# The plain head of the decoder is stored among the layers of the watermark.
_HEAD = "decoder.wm_model.encoder_block.pre"
# Arrays of the watermark, in every level too, which are not part of the codec.
_WATERMARK = (r"decoder\.wm_model\.", r"decoder\.model\.[1-8]\.block\.(2|3|6|7|10|11)\.")
# Fields of codebooks, of which this codec has none.
_IRRELEVANT = ("codebook_size", "n_codebooks", "quantizer_dropout")


def inputs(fields: Mapping[str, Any]) -> list[jax.ShapeDtypeStruct]:
  """The shortest sound, of one latent."""
  samples = fields.get("patch", 1) * math.prod(fields["rates"])
  return [jax.ShapeDtypeStruct((1, samples), jnp.float32)]


def read(config: Config, names: Collection[str]) -> Layout:
  """The plain codec, without the watermark; with weight norm if `names` has unfolded norms."""
  config.check_family("dacvae", ("dacvae",), ("DACVAE",))
  # Published configs omit defaults, and a codec's file may have none.
  rates = tuple(config.get("encoder_rates", DACVAE.rates))
  if list(config.get("decoder_rates", rates[::-1])) != list(rates[::-1]):
    raise UserError(
      f"{config.where} has decoder_rates {config['decoder_rates']!r}, of which only the "
      f"encoder_rates {list(rates)} in reverse are supported; give a checkpoint with that"
    )
  published = {
    "channels": "encoder_dim", "hidden": "latent_dim", "decoder_channels": "decoder_dim",
    "latent": "codebook_dim", "sample_rate": "sample_rate",
  }  # fmt: skip
  fields = {"rates": list(rates)} | {
    ours: config.get(theirs, getattr(DACVAE, ours)) for ours, theirs in published.items()
  }
  pairs = (name.removesuffix("v") + "g" for name in names if name.endswith("weight_v"))
  if any(name in names for name in pairs):  # or else they would be folded
    fields["weight_norm"] = True
  config.close(_IRRELEVANT)
  return Layout("dacvae", fields, _places(fields), ignored=_WATERMARK)


def _places(fields: Mapping[str, Any]) -> dict[str, Place]:
  places = {}

  def snake(ours, theirs):
    places[f"{ours}/alpha"] = Place((f"{theirs}.alpha",), lambda a: a[0, :, 0])

  normed = {"direction": "weight_v", "scale": "weight_g"}
  arrays = normed if fields.get("weight_norm") else {"kernel": "weight"}

  def conv(ours, theirs, change=lambda a: a.transpose(2, 1, 0)):
    for name, suffix in arrays.items():
      places[f"{ours}/{name}"] = Place((f"{theirs}.{suffix}",), change)
    places[f"{ours}/bias"] = Place((f"{theirs}.bias",))

  def unit(ours, theirs):
    for i in (1, 2):
      snake(f"{ours}/snake{i}", f"{theirs}.block.{2 * i - 2}")
      conv(f"{ours}/conv{i}", f"{theirs}.block.{2 * i - 1}")

  # Taps in two blocks of one stride each, see kernels.conv1d; norms have a single tap.
  def blocks(axes):
    return lambda a: a.reshape(*a.shape[:2], min(2, a.shape[2]), -1).transpose(axes)

  rates, units = fields["rates"], range(len(DILATIONS))
  conv("encoder_in", "encoder.block.0")
  for i in range(len(rates)):
    ours, theirs = f"encoder_levels_{i}", f"encoder.block.{i + 1}.block"
    for j in units:
      unit(f"{ours}/unit{j}", f"{theirs}.{j}")
    snake(f"{ours}/snake", f"{theirs}.3")
    conv(f"{ours}/resample", f"{theirs}.4", blocks((3, 1, 2, 0)))
  snake("encoder_snake", f"encoder.block.{len(rates) + 1}")
  conv("encoder_out", f"encoder.block.{len(rates) + 2}")
  conv("posterior", "quantizer.in_proj")
  conv("expand", "quantizer.out_proj")
  conv("decoder_in", "decoder.model.0")
  for i in range(len(rates)):
    ours, theirs = f"decoder_levels_{i}", f"decoder.model.{i + 1}.block"
    snake(f"{ours}/snake", f"{theirs}.0")
    conv(f"{ours}/resample", f"{theirs}.1", blocks((0, 2, 3, 1)))
    for j in units:
      unit(f"{ours}/unit{j}", f"{theirs}.{(4, 5, 8)[j]}")
  snake("decoder_snake", f"{_HEAD}.0")
  conv("decoder_out", f"{_HEAD}.1")
  return places
