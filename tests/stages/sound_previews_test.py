"""Previews of a codec: the files, what they hold, and what a missing plot does to training."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mg_jax.core.errors import UserError
from mg_jax.data.media.audio import read_audio
from mg_jax.stages import plots
from mg_jax.stages.sound_previews import SoundReconstructions

RATE = 8000


class Louder:
  """An objective whose reconstruction is the sound times a parameter."""

  model = SimpleNamespace(sample_rate=RATE)

  def reconstruct(self, params, wave):
    return params["autoencoder"]["gain"] * wave / 2**15


def batches():
  wave = np.random.default_rng(0).integers(-5000, 5000, (3, 2000)).astype(np.int16)
  yield {"wave": wave, "valid": np.array([True, True, False])}


def show(tmp_path, step, gain=2.0, count=8):
  state = SimpleNamespace(averaged=lambda: {"autoencoder": {"gain": jnp.float32(gain)}})
  SoundReconstructions(Louder(), batches, str(tmp_path), count)(state, step)
  return sorted(p.name for p in (tmp_path / "previews").iterdir())


def test_sounds_and_their_reconstructions_are_written(tmp_path):
  pytest.importorskip("matplotlib")
  show(tmp_path, 3)
  names = show(tmp_path, 6, gain=0.5)
  assert names == sorted(
    [f"original-{i:02d}.wav" for i in range(2)]
    + [f"step-000000{s}{end}" for s in (3, 6) for end in (".png", "-00.wav", "-01.wav")]
  )
  wave = next(batches())["wave"][1] / 2**15
  for name, gain in (("original-01", 1), ("step-0000003-01", 2), ("step-0000006-01", 0.5)):
    found = read_audio(tmp_path / "previews" / f"{name}.wav", rate=RATE)
    np.testing.assert_allclose(found, gain * wave, atol=1e-4)
  picture = np.asarray(Image.open(tmp_path / "previews" / "step-0000003.png"))
  assert picture.ndim == 3 and picture[..., :3].std() > 20


def test_without_matplotlib_the_sounds_are_there_and_training_goes_on(
  tmp_path, monkeypatch, caplog
):
  def missing():
    raise UserError("the plot needs matplotlib")

  monkeypatch.setattr(plots, "pyplot", missing)
  assert show(tmp_path, 1, count=1) == ["original-00.wav", "step-0000001-00.wav"]
  assert "no preview at step 1: the plot needs matplotlib" in caplog.text


def test_silence_and_single_samples_are_drawn(tmp_path, recwarn):
  pytest.importorskip("matplotlib")
  rows = [[np.zeros(3000), np.zeros(1)]]
  plots.spectrograms(rows, ("a", "b"), tmp_path / "a.png", rate=RATE)
  assert (tmp_path / "a.png").stat().st_size > 1000
  assert not [w for w in recwarn if "divide" in str(w.message)]
