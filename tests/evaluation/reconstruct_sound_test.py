"""Reconstruction of sound files: what is written, what is measured, what is refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.media.audio import read_audio, write_wav
from mg_jax.evaluation.reconstruct_sound import reconstruct_sound
from mg_jax.models.codecs.chunking import ChunkedCodec
from mg_jax.models.codecs.dacvae import DACVAE
from tests.data.media.audio_test import tone, write

RATE = 4000


class Blocks(DACVAE):
  """A codec whose latents are blocks of samples; decoding takes a constant off."""

  encoder_context = decoder_context = 1

  def encode(self, wave):
    x = wave.reshape(len(wave), -1, 8)
    return x, x

  def decode(self, latent, *, length=None):
    return latent.reshape(len(latent), -1) - self.variables["params"]["loss"]


def codec(loss=0.0, chunk=50):
  model = Blocks(rates=(2, 4), decoder_channels=4, latent=8, sample_rate=RATE)
  return ChunkedCodec(model, {"loss": jnp.float32(loss)}, chunk=chunk)


def test_original_and_reconstruction_stay_in_step_and_are_measured(tmp_path):
  wave = tone(2.0, RATE)
  write_wav(tmp_path / "in.wav", wave, rate=RATE)
  out = tmp_path / "out.wav"
  report = reconstruct_sound(codec(), tmp_path / "in.wav", out)
  assert report["mel"] < 1e-3 and report["stft"] < 1e-3 and report["si_sdr"] > 60
  assert report["seconds"] == 2.0 and report["latents"] == 1000 and report["rate"] == RATE
  assert json.loads((tmp_path / "out.json").read_text()) == report
  for name in ("out.wav", "out-original.wav"):
    np.testing.assert_allclose(read_audio(tmp_path / name, rate=RATE), wave, atol=1e-4)
  worse = reconstruct_sound(codec(loss=0.1), tmp_path / "in.wav", out)
  assert worse["mel"] > report["mel"] + 0.1 and worse["si_sdr"] > 50, "an offset is no distortion"


def test_any_sound_is_taken_at_the_rate_of_the_codec(tmp_path):
  wave = np.stack([tone(1.0, 44_100), -tone(1.0, 44_100), *4 * [tone(1.0, 44_100)]])
  write(tmp_path / "six.wav", wave, rate=44_100, layout="5.1")
  report = reconstruct_sound(codec(), tmp_path / "six.wav", tmp_path / "a.wav", seconds=1.0)
  assert abs(report["seconds"] - 1.0) < 0.01 and report["si_sdr"] > 60


def test_what_cannot_be_reconstructed_is_told_and_leaves_nothing(tmp_path, media):
  path = tmp_path / "in.wav"
  write_wav(path, tone(0.5, RATE), rate=RATE)
  (tmp_path / "empty.wav").write_bytes(b"")
  write_wav(tmp_path / "none.wav", np.zeros(0), rate=RATE)
  nan = write(tmp_path / "nan.wav", np.full((1, 99), np.nan, "f4"), rate=RATE, layout="mono")
  before = sorted(p.name for p in tmp_path.iterdir())
  for words, source, target, change in (
    ("saved as .wav", path, tmp_path / "a.mp3", {}),
    ("would be overwritten", path, path, {}),
    ("no such file", tmp_path / "missing.wav", tmp_path / "a.wav", {}),
    ("the file is empty", tmp_path / "empty.wav", tmp_path / "a.wav", {}),
    ("no samples", tmp_path / "none.wav", tmp_path / "a.wav", {}),
    ("not finite", nan, tmp_path / "a.wav", {}),
    ("no audio stream", media / "faces" / "obama_1.jpg", tmp_path / "a.wav", {}),
    ("give a positive time", path, tmp_path / "a.wav", {"seconds": 0.0}),
  ):
    with pytest.raises(UserError, match=words):
      reconstruct_sound(codec(), source, target, **change)
  assert sorted(p.name for p in tmp_path.iterdir()) == before
