"""Configs of every stage, as small as they get: what the tests of experiments start from."""

import importlib
from pathlib import Path

import numpy as np

from mg_jax.core import config as configs
from mg_jax.data.media import audio

_EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
NAMES = sorted(path.stem for path in _EXPERIMENTS.glob("[!_]*.py"))


def load(name, arg=None):
  return importlib.import_module(f"experiments.{name}").get_config(arg)


def tae(tmp_path, name="tae", **data):
  config = load(name, "tiny,size=16,frames=4")
  config.mesh = (1, 1, 1, 1)
  config.model.update(
    channels=4, multipliers=(1,), latent=2, groups=2, attention=False, shortcut=False,
  )
  config.data.update(cache=str(tmp_path / "data"), clips=6, held_out=3, global_batch=2)
  config.data.update(data)
  config.train.update(steps=2, ema=0.0, log_every=1)
  config.eval.update(batch=2, previews=2)
  return configs.to_dict(config)


def gan(tmp_path, **data):
  config = tae(tmp_path, **data)
  adversarial = configs.to_dict(load("tae_gan", "tiny,size=16,frames=4"))
  config["train"]["experiment"] = "tae_gan"
  config["objective"]["gan"] = 0.5
  config["optim"] = adversarial["optim"]
  config["train"]["warm_start"] = adversarial["train"]["warm_start"]
  config["discriminator"] = adversarial["discriminator"] | {"channels": 4, "groups": 2}
  return config


def t2v(tmp_path, **data):
  config = load("t2v_256", "tiny,size=16,frames=4")
  config.mesh = (1, 1, 1, 1)
  config.autoencoder = str(tmp_path / "tae")
  width = {"width": 16, "layers": 1, "heads": 1, "mlp_dim": 16}
  config.model.dit.update(width, channels=2, patch=(1, 1, 1), max_thw=(2, 4, 4))
  config.model.dit.routes.text.features = 16
  config.model.encoders.text.update(width, head_dim=8)
  config.data.update(cache=str(tmp_path / "data"), clips=6, held_out=3, global_batch=2)
  config.data.update({"image_weight": 0} | data)
  config.text.text.length = 12
  config.train.update(steps=2, log_every=1)
  config.eval.update(batch=2, previews=2)
  config.sampling.update(steps=2)
  return configs.to_dict(config)


def generator(tmp_path, name, *, phase=1, seed=0):
  """A stage of the generator, with position tables for latents eight times smaller a side."""
  arg = "tiny,size=32,frames=4" + (f",phase={phase}" if phase > 1 else "")
  config = load(name, arg)
  config.mesh = (1, 1, 1, 1)
  config.autoencoder = str(tmp_path / "tae")
  width = {"width": 16, "layers": 1, "heads": 1, "mlp_dim": 16}
  config.model.dit.update(width, channels=2)
  config.model.dit.routes.text.features = 16
  config.model.encoders.text.update(width, head_dim=8)
  config.data.update(cache=str(tmp_path / "data"), clips=8, held_out=3, global_batch=2, seed=seed)
  config.text.text.length = 12
  config.optim.schedule = "constant"
  config.train.update(steps=2 * phase, log_every=1)
  config.eval.update(batch=2, previews=0, every=2)
  config.sampling.update(steps=2)
  return configs.to_dict(config)


def clip(tmp_path, name="clip", **data):
  config = load(name, "tiny")
  config.mesh = (1, 1, 1, 1)
  for tower in (config.model.text, config.model.vision):
    tower.update(width=16, layers=1, heads=2, mlp_dim=16, projection=8)
  config.model.vision.update(size=16, patch=8)
  config.data.update(cache=str(tmp_path / "data"), clips=6, held_out=3, global_batch=2)
  config.data.update({"height": 16, "width": 16, "variants": 3} | data)
  config.train.update(steps=2, log_every=1)
  config.eval.update(batch=2)
  return configs.to_dict(config)


def sound(tmp_path, **data):
  """Two tones of three seconds at 16 kHz, in `tmp_path/sounds`."""
  (tmp_path / "sounds").mkdir(exist_ok=True)
  for hz in (300, 440):
    wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(48_000) / 16_000)
    audio.write_wav(tmp_path / "sounds" / f"{hz}.wav", wave, rate=16_000)
  config = load("dacvae", "tiny")
  config.mesh = (1, 1, 1, 1)
  config.model.update(
    channels=2, rates=(2, 4, 10), hidden=4, decoder_channels=8, latent=3, sample_rate=16_000
  )
  config.critics.update(
    periods=(2,), period_widths=(2, 2), windows=(32,), spectrum_width=2, bands=((0.0, 1.0),)
  )
  config.objective.mel_scales = ((32, 5),)
  config.data.update(path=str(tmp_path / "sounds"), cache=str(tmp_path / "data"), rate=16_000)
  config.data.update({"seconds": 0.05, "held_out_seconds": 0.1, "global_batch": 2} | data)
  for role in config.optim.values():
    role.schedule = "constant"  # so that a run may be prolonged
  config.train.update(steps=4, log_every=1)
  config.eval.update(batch=2, previews=2)
  return configs.to_dict(config)


def soundtrack(tmp_path, name="soundtrack", **data):
  """Of a codec with three channels, see `encode_sound_test.codec`."""
  config = load(name, "tiny")
  config.mesh = (1, 1, 1, 1)
  config.codec = str(tmp_path / "codec")
  width = {"width": 16, "layers": 1, "heads": 2, "mlp_dim": 16}
  config.model.dit.update(width, channels=3, max_thw=(25, 1, 1), unroll=1)
  config.model.dit.routes.context.features = 3
  config.model.dit.routes.text.features = config.model.dit.routes.video.features = 16
  config.model.encoders.text.update(width, head_dim=8)
  config.model.encoders.video.update(width, size=16, projection=16)
  config.text.text.length = 12
  config.data.update(clips=9, held_out=3, chunks=((1.0, 1),), fps=5.0, size=16, global_batch=2)
  config.data.update(data)
  config.optim.update(schedule="constant", warmup=0)  # so that a run may be prolonged
  config.train.update(steps=2, log_every=1)
  config.eval.update(batch=2)
  return configs.to_dict(config)


def codec(tmp_path):
  """The one that `soundtrack` wants: 25 latents a second of sound at 48 kHz."""
  config = sound(tmp_path, rate=48_000, seconds=0.08, held_out_seconds=0.2)
  config["model"] |= {"sample_rate": 48_000, "rates": [2, 8, 10, 12], "decoder_channels": 16}
  return config


def autoencoder(tmp_path, name):
  """A stage of the one whose latents are eight times smaller a side, as `generator` expects."""
  config = gan(tmp_path) if name == "tae_gan" else tae(tmp_path, name)
  config["model"]["patch"] = [1 if name == "tae_image" else 4, 8, 8]
  return config


def smallest(tmp_path, name):
  """The config of any recipe; runs that it needs are those of `tmp_path` with their names."""
  if name.startswith("tae"):
    return autoencoder(tmp_path, name)
  if name.startswith("clip"):
    return clip(tmp_path, name)
  if name.startswith("soundtrack"):
    return soundtrack(tmp_path, name)
  return codec(tmp_path) if name == "dacvae" else generator(tmp_path, name)
