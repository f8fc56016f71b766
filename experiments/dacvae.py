"""The audio codec [MG 6.2]: `dacvae.py` at the published size, `dacvae.py:tiny` on a CPU.

`--config.data.path=DIR` is the folder of sound and video files. The paper gives the sample rate,
the channels, and that it is DAC with a Gaussian bottleneck; the published DACVAE was trained with
DAC's code. So everything but the bottleneck's weight is DAC's: losses and their weights,
critics, weight norm, batch, AdamW, learning rate (decaying to a factor of 0.37), clipping, steps.
Chunks are 0.4 s instead of DAC's 0.38, a whole number of latents, and keep their level, which DAC
normalises to -16 dB. Averaged weights are our addition, and norms of kernels have no weight decay,
unlike DAC's. `:tiny` learns a handful of files, `:tiny,toy` the sound of the toy world, both with
plain kernels.
"""

from ml_collections import ConfigDict

from mg_jax.core.config import module_fields, parse_arg, section
from mg_jax.data.sources.sound_recipe import SoundConfig
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.codecs.wave_critics import WaveCritics
from mg_jax.objectives.wave_autoencoding import WaveWeights
from mg_jax.stages.experiment import EvalConfig
from mg_jax.train.loop import TrainConfig
from mg_jax.train.optim import OptimConfig


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: tiny; toy (with tiny)."""
  args = parse_arg(arg, tiny=False, toy=False)
  config = ConfigDict()
  config.stage = "wave_autoencoding"
  config.mesh = (-1, 1, 1, 1)
  config.model = ConfigDict(module_fields(DACVAE, weight_norm=True))
  config.critics = ConfigDict(module_fields(WaveCritics, weight_norm=True))
  config.objective = section(WaveWeights)
  config.data = section(SoundConfig, global_batch=72, held_out_seconds=5.0)
  optim = section(
    OptimConfig, lr=1e-4, schedule="linear", final=0.37, b1=0.8, b2=0.99, weight_decay=0.01,
  )
  # One section per role, so that each has its own flags.
  config.optim = ConfigDict({"autoencoder": optim, "critics": optim.copy_and_resolve_references()})
  config.optim.autoencoder.clip = 1e3
  config.optim.critics.clip = 10.0
  config.train = section(
    TrainConfig, experiment="dacvae", steps=250_000, ema=0.999, checkpoint_every=5000
  )
  config.eval = section(EvalConfig, every=5000, batch=8)
  if args.tiny:
    tiny(config)
    if args.toy:
      toy(config)
  return config


def tiny(config: ConfigDict) -> None:
  """A codec that learns a few files in minutes on two cores, at 48 kHz, 25 latents per second."""
  config.model.update(
    channels=8, hidden=64, decoder_channels=128, latent=32, weight_norm=False
  )
  config.critics.update(
    periods=(2, 5), period_widths=(4, 8, 16, 32), windows=(1024,), spectrum_width=4,
    weight_norm=False,
  )
  config.data.update(global_batch=4, held_out_seconds=2.0, holdout="tail")
  config.optim.autoencoder.update(lr=1e-3, warmup=20, final=0.1)
  config.optim.critics.update(lr=1e-3, warmup=20, final=0.1)
  config.train.update(steps=1000, ema=0.0, checkpoint_every=250)
  config.eval.update(every=250, batch=4, limit=32, previews=4)


def toy(config: ConfigDict) -> None:
  """The codec of the toy world: narrow bands of four milliseconds in place of samples, no critics.

  Its sounds are rare and clear amid digital silence. Distances of log mels, used unsquared in DAC,
  favour what is frequent, here silence; squared, they also weight rare events.
  """
  config.model.update(channels=192, hidden=256, decoder_channels=384, patch=192, rates=(10,))
  config.objective.update(adversarial=0.0, features=0.0, kl=0.3, mel_floor=3e-4, mel_power=2.0)
  # More long windows than DAC, to distinguish tones.
  config.objective.mel_scales = ((64, 10), (256, 40), (1024, 160), (2048, 320), (4096, 640))
  config.optim = config.optim.autoencoder
  config.optim.update(lr=8e-4, warmup=50)
  config.data.update(source="toy", holdout="file", global_batch=8)
  config.train.update(steps=8000, ema=0.99, checkpoint_every=500)
  config.eval.update(every=500, batch=8)
