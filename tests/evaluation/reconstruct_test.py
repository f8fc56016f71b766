"""Reconstruction of video files: what is written, what is measured, what is refused."""

import importlib.util
import json

import av
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.media.video import probe, read_frames, write_video
from mg_jax.evaluation.reconstruct import GAIN, reconstruct
from mg_jax.metrics.fidelity import Fidelity
from mg_jax.models.codecs.tiling import TiledAutoencoder, Tiling


class Dim(nn.Module):
  """Keeps every pixel as a channel of its latent; decoding subtracts a constant."""

  factors = (8, 8, 8)
  latent = 8 * 8 * 8 * 3

  def latent_shape(self, frames, height, width):
    return -(-frames // 8), height // 8, width // 8, self.latent

  def encode(self, video):
    b, t, h, w, c = video.shape
    video = jnp.pad(video, ((0, 0), (0, -t % 8), (0, 0), (0, 0), (0, 0)), mode="edge")
    x = video.reshape(b, -1, 8, h // 8, 8, w // 8, 8, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(*x.shape[:4], -1), x

  def decode(self, latent, *, frames):
    b, t, h, w, _ = latent.shape
    x = latent.reshape(b, t, h, w, 8, 8, 8, 3).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    video = x.reshape(b, 8 * t, 8 * h, 8 * w, 3)[:, :frames]
    return video - self.variables["params"]["loss"] / 127.5


def autoencoder(loss=0.0, tiling=None):
  return TiledAutoencoder(Dim(), {"loss": jnp.float32(loss)}, tiling)


def moving(path, frames, height=24, width=32, fps=10):
  rows = np.linspace(60, 180, width)[None, :] + 3 * np.arange(frames)[:, None] % 40
  clip = np.broadcast_to(rows[:, None, :, None], (frames, height, width, 3))
  write_video(path, clip.astype(np.uint8), fps=fps)
  return path


@pytest.mark.parametrize("frames", [1, 9, 32, 33, 71])
def test_original_reconstruction_and_difference_stand_side_by_side(tmp_path, frames):
  path, out = moving(tmp_path / "in.mp4", frames), tmp_path / "out.mp4"
  report = reconstruct(autoencoder(loss=20), path, out)
  original = np.stack(list(read_frames(path)))
  assert json.loads((tmp_path / "out.json").read_text()) == report
  assert report["frames"] == len(original) == frames and report["notice"] == ""
  wanted = Fidelity()
  wanted.add(original - 20, original)
  assert report["psnr"] == pytest.approx(wanted.compute()["psnr"], abs=1e-3)
  assert report["ssim"] == pytest.approx(wanted.compute()["ssim"], abs=1e-4)
  shown = np.stack(list(read_frames(out))).astype(int)
  assert shown.shape == (frames, 24, 96, 3) and probe(out).fps == 10
  assert np.abs(shown[:, :, :32] - original).mean() < 4
  assert np.abs(shown[:, :, 32:64] - (original.astype(int) - 20)).mean() < 4
  assert np.abs(shown[:, :, 68:] - GAIN * 20).mean() < 4


def test_frames_stay_in_step_across_tiles(tmp_path):
  """A network that loses nothing reconstructs every frame at its own time."""
  path = moving(tmp_path / "in.mp4", 75)
  tiling = Tiling(frames=16, overlap=8, side=16, border=8)
  report = reconstruct(autoencoder(tiling=tiling), path, tmp_path / "out.mp4")
  assert report["psnr"] > 55 and report["ssim"] > 0.999 and report["frames"] == 75


def test_memory_is_told_over_the_whole_video_at_few_places(tmp_path, monkeypatch):
  monkeypatch.setattr("mg_jax.evaluation.reconstruct.MARKS", 8)
  path = moving(tmp_path / "in.mp4", 75)
  report = reconstruct(autoencoder(), path, tmp_path / "out.mp4")
  frames, gib = zip(*report["memory"], strict=True)
  assert 4 <= len(frames) <= 8 and 64 <= frames[-1] <= 75
  assert len(set(np.diff(frames))) == 1 and list(gib) == sorted(gib) and gib[0] > 0.01
  if importlib.util.find_spec("matplotlib"):
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"


def test_odd_sizes_are_cut_and_that_is_told(tmp_path, caplog):
  path = moving(tmp_path / "in.mp4", 3, height=30, width=38)
  report = reconstruct(autoencoder(), path, tmp_path / "out.mp4", seconds=0.2)
  assert (report["height"], report["width"], report["frames"]) == (24, 32, 2)
  assert "cropped from 30x38 to 24x32" in report["notice"] and report["notice"] in caplog.text


@pytest.mark.parametrize("codec, pix_fmt", [
  ("ffv1", "yuv420p10le"), ("ffv1", "gray"), ("ffv1", "bgra"),
])  # fmt: skip
def test_other_pictures_are_taken(tmp_path, codec, pix_fmt):
  path = tmp_path / "in.mkv"
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=10)
    stream.height, stream.width, stream.pix_fmt = 24, 32, pix_fmt
    for level in (40, 120, 200):
      frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), level, np.uint8), format="rgb24")
      container.mux(stream.encode(frame.reformat(format=pix_fmt)))
    container.mux(stream.encode(None))
  report = reconstruct(autoencoder(), path, tmp_path / "out.mp4", fps=10)
  assert report["frames"] == 3 and report["psnr"] > 50
  shown = np.stack(list(read_frames(tmp_path / "out.mp4")))
  np.testing.assert_allclose(shown[:, :, :64].mean((1, 2, 3)), [40, 120, 200], atol=4)


def test_what_cannot_be_reconstructed_is_told_and_leaves_nothing(tmp_path):
  path, out = moving(tmp_path / "in.mp4", 3), tmp_path / "out.mp4"
  small = moving(tmp_path / "small.mp4", 3, height=6)
  empty = tmp_path / "empty.mp4"
  empty.write_bytes(b"")
  for words, source, target, change in (
    ("saved as .mp4", path, tmp_path / "out.avi", {}),
    ("is the video itself", path, path, {}),
    ("no such file", tmp_path / "missing.mp4", out, {}),
    ("the file is empty", empty, out, {}),
    ("6x32 are smaller than the 8x8 pixels", small, out, {}),
    ("8x8 are smaller than the window of SSIM", path, out, {"size": (8, 8)}),
    ("seconds is invalid", path, out, {"seconds": 0.0}),
    ("empty.mp4 cannot be written", path, empty / "out.mp4", {}),
  ):
    with pytest.raises(UserError, match=words):
      reconstruct(autoencoder(), source, target, **change)
  with pytest.raises(UserError, match="not finite"):
    reconstruct(autoencoder(loss=float("nan")), path, out)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.mp4", "in.mp4", "small.mp4"]
