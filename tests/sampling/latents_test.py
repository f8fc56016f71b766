"""A video file to latents on disk and back."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.media.video import probe, read_frames, write_video
from mg_jax.data.records import RecordSource, RecordWriter
from mg_jax.inference import load as loading
from mg_jax.models.codecs.tiling import TiledAutoencoder
from mg_jax.sampling.latents import decode_latents, encode_video


class Blocks(nn.Module):
  """A latent is the mean of 8 x 8 x 8 pixels, times a gain."""

  factors = (8, 8, 8)
  latent = 3

  def latent_shape(self, frames, height, width):
    return -(-frames // 8), height // 8, width // 8, 3

  def encode(self, video):
    b, t, h, w, c = video.shape
    video = jnp.pad(video, ((0, 0), (0, -t % 8), (0, 0), (0, 0), (0, 0)), mode="edge")
    mean = video.reshape(b, -1, 8, h // 8, 8, w // 8, 8, c).mean((2, 4, 6))
    return mean * self.variables["params"]["gain"], mean

  def decode(self, latent, *, frames):
    video = latent / self.variables["params"]["gain"]
    for axis in (1, 2, 3):
      video = jnp.repeat(video, 8, axis=axis)
    return video[:, :frames]


def autoencoder(gain=2.0):
  return TiledAutoencoder(Blocks(), {"gain": jnp.float32(gain)})


def blocks(frames, height=24, width=32):
  """A video of flat blocks, which the autoencoder passes on exactly."""
  rng = np.random.default_rng(0)
  levels = rng.integers(30, 220, (-(-frames // 8), height // 8, width // 8, 1))
  video = np.broadcast_to(levels, (*levels.shape[:3], 3)).astype(np.uint8)
  for axis in (0, 1, 2):
    video = video.repeat(8, axis)
  return video[:frames]


@pytest.mark.parametrize("frames", [1, 20, 32, 33, 75])
def test_a_video_comes_back_from_its_latents(tmp_path, frames):
  write_video(tmp_path / "in.mp4", blocks(frames), fps=12)
  assert encode_video(autoencoder(), tmp_path / "in.mp4", tmp_path / "latents") == frames
  source = RecordSource(tmp_path / "latents")
  records = [source[i] for i in range(len(source))]
  assert [r["start"] for r in records] == list(range(0, frames, 32))
  assert sum(r["frames"] for r in records) == frames
  assert sum(len(r["latent"]) for r in records) == -(-frames // 8)
  assert [source.metadata[name] for name in ("fps", "height", "width")] == [12, 24, 32]
  assert decode_latents(autoencoder(), tmp_path / "latents", tmp_path / "out.mp4") == frames
  info = probe(tmp_path / "out.mp4")
  assert (info.frames, info.fps, info.height, info.width) == (frames, 12, 24, 32)
  back = np.stack(list(read_frames(tmp_path / "out.mp4")))
  # Overlapping tiles agree here, so nothing is lost but what two video encodings lose.
  assert np.abs(back.astype(int) - blocks(frames)).mean() < 4


def test_size_rate_and_time_are_as_asked(tmp_path, caplog):
  write_video(tmp_path / "in.mp4", blocks(40), fps=10)
  frames = encode_video(
    autoencoder(), tmp_path / "in.mp4", tmp_path / "latents", size=20, fps=5, seconds=2.0
  )
  [notice] = caplog.messages
  assert frames == 10 and "scaled" in notice and "cropped" in notice
  metadata = RecordSource(tmp_path / "latents").metadata
  assert (metadata["height"], metadata["width"]) == (16, 24)
  assert decode_latents(autoencoder(), tmp_path / "latents", tmp_path / "out.mp4") == 10
  assert probe(tmp_path / "out.mp4").fps == 5


def test_latents_of_another_autoencoder_are_refused(tmp_path):
  write_video(tmp_path / "in.mp4", blocks(9), fps=10)
  encode_video(autoencoder(), tmp_path / "in.mp4", tmp_path / "latents")
  with pytest.raises(UserError, match="encoded by another autoencoder; give that one"):
    decode_latents(autoencoder(3.0), tmp_path / "latents", tmp_path / "out.mp4")
  with pytest.raises(UserError, match="records of another recipe"):
    encode_video(autoencoder(3.0), tmp_path / "in.mp4", tmp_path / "latents")
  assert not (tmp_path / "out.mp4").exists()
  # What was there is still whole.
  assert decode_latents(autoencoder(), tmp_path / "latents", tmp_path / "out.mp4") == 9


def test_what_holds_no_latents_is_refused(tmp_path):
  with pytest.raises(UserError, match="manifest"):
    decode_latents(autoencoder(), tmp_path / "nothing", tmp_path / "out.mp4")
  writer = RecordWriter(tmp_path / "other", shards=1)
  writer.write_shard(0, [{"a": 1}])
  writer.finish()
  with pytest.raises(UserError, match="no latents of a video"):
    decode_latents(autoencoder(), tmp_path / "other", tmp_path / "out.mp4")


def test_an_interrupted_encoding_leaves_no_folder_that_could_be_read(tmp_path):
  write_video(tmp_path / "in.mp4", blocks(40), fps=10)
  broken = autoencoder(float("nan"))
  with pytest.raises(UserError, match="not finite"):
    encode_video(broken, tmp_path / "in.mp4", tmp_path / "latents")
  with pytest.raises(UserError, match="manifest"):
    decode_latents(broken, tmp_path / "latents", tmp_path / "out.mp4")


@pytest.fixture
def loaded(monkeypatch):
  """The autoencoder in place of that of a run; what it was asked for, each call."""
  calls = []

  def load(workdir, *, step, tiling):
    calls.append((workdir, step, tiling.frames))
    return autoencoder()

  monkeypatch.setattr(loading, "load_autoencoder", load)
  return calls


def test_the_commands_take_a_video_to_latents_and_back(tmp_path, loaded, run_main, caplog):
  write_video(tmp_path / "in.mp4", blocks(40), fps=10)
  caplog.set_level("INFO", "mg_jax")
  source = "--workdir=tae", f"--video={tmp_path / 'in.mp4'}", f"--out={tmp_path / 'latents'}"
  run_main("encode", *source, "--size=16", "--seconds=3.5", "--step=7", "--tiles=16,512")
  assert f"{tmp_path / 'latents'}: latents of 35 frames" in caplog.messages
  out = tmp_path / "out.mp4"
  printed = run_main("reconstruct", "--workdir=tae", f"--latents={source[2][6:]}", f"--out={out}")
  assert printed == f"{out}: 35 frames\n" and loaded == [("tae", 7, 16), ("tae", None, 32)]
  info = probe(out)
  assert (info.frames, info.height, info.width, info.fps) == (35, 16, 16, 10)


@pytest.mark.parametrize("main, arguments, words", [
  ("encode", ["--workdir=tae"], "give either --config, or --video and --out"),
  ("encode", ["--workdir=tae", "--video=a.mp4"], "give either --config, or --video and --out"),
  ("encode", ["--video=a.mp4", "--out=b"], "--workdir is missing"),
  ("encode", ["--workdir=tae", "--video=a.mp4", "--out=b", "--distributed"], "for --config"),
  ("encode", ["--workdir=tae", "--video=a.mp4", "--out=b", "--size=0"], "SHORTER_SIDE"),
  ("reconstruct", ["--workdir=tae", "--out=b.mp4"], "one of --video, --sound and --latents"),
  ("reconstruct", ["--video=a.mp4", "--latents=b"], "one of --video, --sound and --latents"),
  ("reconstruct", ["--latents=b", "--workdir=tae"], "--out is missing"),
  ("reconstruct", ["--latents=b", "--workdir=tae", "--out=c.mp4", "--fps=3"], "--fps is for --vid"),
  ("reconstruct", ["--sound=b", "--workdir=tae", "--out=c.wav", "--size=3"], "--size is for --vid"),
])  # fmt: skip
def test_mistakes_of_the_commands_are_one_sentence(loaded, run_main, main, arguments, words):
  with pytest.raises(UserError, match=words):
    run_main(main, *arguments)
  assert loaded == []
