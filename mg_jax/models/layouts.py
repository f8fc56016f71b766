"""The families of published weights that can be imported; see `models.published`."""

from mg_jax.models import (
  layouts_autoencoder,
  layouts_clip,
  layouts_dacvae,
  layouts_open_clip,
  layouts_t5,
)
from mg_jax.models.clip import CLIP, TextTower, VisionTower
from mg_jax.models.dacvae import DACVAE
from mg_jax.models.kinds import Kind, text_inputs
from mg_jax.models.tae import TAE
from mg_jax.models.text import T5Encoder


def _read_clip(config, names):
  reader = layouts_open_clip if layouts_open_clip.holds(config, names) else layouts_clip
  return reader.read(config, names)


KINDS = {
  "t5": Kind(T5Encoder, text_inputs, layouts_t5.read),
  "clip": Kind(CLIP, layouts_clip.inputs, _read_clip),
  # One tower alone: what kind clip makes of a checkpoint that holds no more.
  "clip_text": Kind(TextTower, text_inputs),
  "clip_vision": Kind(VisionTower, layouts_clip.image_inputs),
  "autoencoder": Kind(TAE, layouts_autoencoder.inputs, layouts_autoencoder.read),
  "dacvae": Kind(DACVAE, layouts_dacvae.inputs, layouts_dacvae.read),
}
