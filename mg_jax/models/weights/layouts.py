"""The families of published weights that can be imported; see `models.weights.published`."""

from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.encoders.clip import CLIP, TextTower, VisionTower
from mg_jax.models.encoders.t5 import T5Encoder
from mg_jax.models.weights import (
  layouts_autoencoder,
  layouts_clip,
  layouts_dacvae,
  layouts_open_clip,
  layouts_t5,
)
from mg_jax.models.weights.kinds import Kind, text_inputs


def _read_clip(config, names):
  reader = layouts_open_clip if layouts_open_clip.holds(config, names) else layouts_clip
  return reader.read(config, names)


KINDS = {
  "t5": Kind(T5Encoder, text_inputs, layouts_t5.read),
  "clip": Kind(CLIP, layouts_clip.inputs, _read_clip),
  # One tower alone: the result of kind clip for a checkpoint of one tower.
  "clip_text": Kind(TextTower, text_inputs),
  "clip_vision": Kind(VisionTower, layouts_clip.image_inputs),
  "autoencoder": Kind(TAE, layouts_autoencoder.inputs, layouts_autoencoder.read),
  "dacvae": Kind(DACVAE, layouts_dacvae.inputs, layouts_dacvae.read),
}
