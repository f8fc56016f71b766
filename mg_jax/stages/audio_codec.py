"""The stage "wave_autoencoding": the audio codec [MG 6.2]."""

import jax
import jax.numpy as jnp

from mg_jax.core.errors import UserError
from mg_jax.data.sources import sound_recipe
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.codecs.wave_critics import WaveCritics
from mg_jax.objectives.wave_autoencoding import WaveAutoencoding, WaveWeights
from mg_jax.precompute.clips import report_rejected
from mg_jax.stages import sound_previews
from mg_jax.stages.base import (
  Experiment,
  build_section,
  check_dtypes,
  check_model,
  held_out_batches,
  nothing_to_encode,
  section,
)
from mg_jax.stages.video_codec import codec_hooks
from mg_jax.train.loop import Hook


class AudioCodec:
  """See `stages.base.Stage`."""

  data = sound_recipe.SoundConfig
  encodes = False

  def objective(self, config, data) -> WaveAutoencoding:
    """Raises UserError where the codec and its data are of different rates."""
    model = build_section(DACVAE, config, "model")
    if model.sample_rate != data.rate:
      raise UserError(
        f"model.sample_rate is {model.sample_rate} and data.rate {data.rate}; make them equal"
      )
    weights = build_section(WaveWeights, config, "objective")
    critics = WaveCritics()
    # Configs without an adversarial loss need no such section.
    if weights.adversarial:
      check_dtypes(section(config, "critics"))
      critics = build_section(WaveCritics, config, "critics")
    return WaveAutoencoding(model, weights, critics)

  def abstract_batch(self, config, data):
    del config
    samples = data.samples("train")
    batch = {"wave": jax.ShapeDtypeStruct((data.global_batch, samples), jnp.int16)}
    return batch, (samples, 1, 1)

  def experiment(self, config, data, evals, workdir, mesh) -> Experiment:
    objective = self.objective(config, data)
    check_model(objective, self.abstract_batch(config, data)[0])
    parts = [part.data for part in data.parts.values()]
    row = sound_recipe.WaveRow(data.samples("validation"), shift=False)
    shown = [(row, sound_recipe.open_source(part, "validation")) for part in parts]
    batches = held_out_batches(shown, evals)
    hooks = codec_hooks(objective, batches, config, evals, workdir, mesh)
    if evals.previews:
      show = sound_previews.SoundReconstructions(objective, batches, workdir, evals.previews)
      hooks.append(Hook("preview", evals.every, show))
    report_rejected([sound_recipe.scan(part, "train") for part in parts], workdir)
    return Experiment(objective, sound_recipe.wave_feed(data), tuple(hooks))

  def encode(self, config, data, evals, workdir):
    raise nothing_to_encode(config)
