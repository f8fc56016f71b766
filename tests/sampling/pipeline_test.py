import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.conditions import Latent
from mg_jax.data.text.prompts import decode_bytes
from mg_jax.data.text.readers import Reader, TextConfig
from mg_jax.data.text.tokenizers import open_tokenizer
from mg_jax.models import conditioning
from mg_jax.models.codecs.tiling import Tiling
from mg_jax.models.encoders.streams import Streams
from mg_jax.sampling.pipeline import TextToVideo
from mg_jax.sampling.settings import Settings


class Field(nn.Module):
  """Two dense layers over a frame's mean, a summary of the text, and the time."""

  max_frames: int = 4

  def routes(self):
    return conditioning.table({"text": {"kind": "cross", "features": 6}})

  def setup(self):
    self.embed = nn.Embed(259, 6)
    self.hidden, self.out = nn.Dense(16), nn.Dense(3)

  def encode(self, cond):
    return {"text": {"features": self.embed(cond["text"]["ids"]), "mask": cond["text"]["mask"]}}

  def __call__(self, x, t_B, cond):
    if x.shape[1] > self.max_frames:
      raise UserError(f"{x.shape[1]} latent frames exceed {self.max_frames}")
    cond = self.encode(cond) if "ids" in cond["text"] else cond
    text = (cond["text"]["features"] * cond["text"]["mask"][..., None]).sum(1)
    text = jnp.concatenate([text, t_B[:, None]], -1)[:, None, None, None]
    h = jnp.concatenate([x, jnp.broadcast_to(text, x.shape[:4] + (7,))], -1)
    return self.out(nn.silu(self.hidden(h)))


class Blocks(nn.Module):
  """Decodes a latent to flat blocks of 8 x 8 x 8 pixels, the channels being the colours."""

  def latent_shape(self, frames, height, width):
    if height % 8 or width % 8:
      raise UserError(f"{height}x{width} is not a multiple of 8")
    return -(-frames // 8), height // 8, width // 8, 3

  def decode(self, latent, *, frames):
    for axis in (1, 2, 3):
      latent = jnp.repeat(latent, 8, axis=axis)
    return latent[:, :frames]


PARAMS = Field().init(
  jax.random.key(0),
  jnp.zeros((1, 1, 2, 2, 3)), jnp.zeros((1,)),
  {"text": {"ids": jnp.zeros((1, 4), jnp.int32), "mask": jnp.ones((1, 4), bool)}},
)["params"]
TEXT = Streams({"text": Reader(TextConfig(length=24), open_tokenizer("bytes"))})
SETTINGS = Settings(frames=9, height=16, width=24, fps=8, steps=4, guidance=3.0)


def _pipeline(batch=2, **fields):
  values = {
    "model": Field(), "params": PARAMS, "autoencoder": Blocks(), "autoencoder_params": {},
    "mean": np.zeros(3, np.float32), "std": np.full(3, 0.3, np.float32),
    "settings": SETTINGS, "text": TEXT, "batch": batch,
  }
  return TextToVideo(**(values | fields))


def test_shapes_of_clips_and_images():
  pipeline = _pipeline()
  clips = pipeline(["a", "b", "c"], seeds=[0, 1, 2])
  assert clips.shape == (3, 9, 16, 24, 3) and clips.dtype == np.uint8
  assert pipeline(["a"], seeds=[0], frames=1, width=32).shape == (1, 1, 16, 32, 3)
  assert pipeline([], seeds=[]).shape == (0, 9, 16, 24, 3)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_clip_does_not_depend_on_its_company(batch):
  pipeline = _pipeline(batch)
  texts, seeds = ["red ball", "blue box", "🌞", "", "red ball"], [5, 6, 7, 8, 5]
  together = pipeline(texts, seeds=seeds)
  for i in (0, 1, 3):
    np.testing.assert_array_equal(pipeline([texts[i]], seeds=[seeds[i]])[0], together[i])
  np.testing.assert_array_equal(together[0], together[4])
  np.testing.assert_array_equal(pipeline(texts[::-1], seeds=seeds[::-1])[::-1], together)


def test_seed_prompt_and_rate_matter():
  clips = _pipeline()(["a ball", "a ball", "a cube"], seeds=[1, 2, 1])
  assert (clips[0] != clips[1]).any() and (clips[0] != clips[2]).any()
  assert (_pipeline()(["a ball"], seeds=[1], fps=24)[0] != clips[0]).any()


def test_the_frame_rate_is_told_for_videos_only():
  told = lambda pipeline, text, **kw: decode_bytes(  # noqa: E731
    pipeline.tokens([text], dataclasses.replace(SETTINGS, **kw))["text"]["ids"][0]
  )
  assert told(_pipeline(), "a ball") == "FPS-8 a ball"
  assert told(_pipeline(), "a ball", frames=8) == "a ball"  # one latent frame, as an image
  assert not _pipeline().tokens([" "], SETTINGS)["text"]["mask"].any()


def test_guidance_matters_except_for_an_empty_prompt():
  pipeline = _pipeline()
  run = lambda text, scale: pipeline([text], seeds=[1], guidance=scale).astype(int)  # noqa: E731
  assert np.abs(run("a ball", 1.0) - run("a ball", 6.0)).max() > 1
  assert np.abs(run("  ", 1.0) - run("  ", 6.0)).max() <= 1
  assert np.abs(run("a ball", 0.0) - run("", 1.0)).max() <= 1


def test_result_is_the_integrated_field_denormalised():
  """With a constant velocity the clip is known in closed form."""

  class Constant(Field):
    def __call__(self, x, t_B, cond):
      return -x / (1 - t_B[:, None, None, None, None]) + jnp.array([0.0, 0.25, 0.5])

  mean, std = np.array([0.1, -0.2, 0.3], np.float32), np.array([1.0, 2.0, 0.5], np.float32)
  pipeline = _pipeline(model=Constant(), mean=mean, std=std)
  clip = pipeline(["x"], seeds=[3], schedule="linear", steps=1)[0]
  expected = np.round((np.clip(np.array([0.0, 0.25, 0.5]) * std + mean, -1, 1) + 1) * 127.5)
  np.testing.assert_allclose(clip, np.broadcast_to(expected, clip.shape), atol=1)


def test_one_compilation_per_shape():
  calls = []

  class Spy(Field):
    def __call__(self, x, t_B, cond):
      calls.append(x.shape)
      return super().__call__(x, t_B, cond)

  pipeline = _pipeline(model=Spy())
  pipeline(["a"], seeds=[0])
  calls.clear()
  for fps, schedule, scale in [(8, "linear", 2.0), (16, "linear_quadratic", 5.0), (8, "linear", 3)]:
    pipeline(["a"], seeds=[0], fps=fps, schedule=schedule, guidance=scale)
  assert not calls
  pipeline(["a"], seeds=[0], frames=1)
  assert calls


def test_network_runs_every_branch_in_one_call():
  rows = []

  class Spy(Field):
    def __call__(self, x, t_B, cond):
      rows.append(x.shape[0])
      return super().__call__(x, t_B, cond)

  _pipeline(batch=3, model=Spy())(["a"], seeds=[0])
  assert set(rows) == {6}
  rows.clear()
  _pipeline(batch=3, model=Spy())(["a"], seeds=[0], guidance=1.0)
  assert set(rows) == {3}


@pytest.mark.parametrize("change,message", [
  ({"height": 20}, "multiple of 8"),
  ({"frames": 41}, "41 frames of 16x24: 6 latent frames exceed 4"),
  ({"frames": 0}, "frames"),
  ({"steps": 0}, "steps"),
  ({"fps": 0.0}, "fps"),
  ({"guidance": float("nan")}, "guidance"),
  ({"guidance": "high"}, "guidance is high; give a number"),
  ({"guidance": "sound:2"}, "guidance names 'sound'; this model has text"),
  ({"schedule": "cosine"}, "schedule"),
  ({"method": "dopri5"}, "midpoint"),
  ({"size": 3}, "no setting size"),
])
def test_impossible_settings_are_user_errors(change, message):
  with pytest.raises(UserError, match=message):
    _pipeline().resolve(**change)


def test_one_text_and_no_seeds_will_do():
  pipeline = _pipeline()
  want = pipeline(["a", "b"], seeds=[0, 1])
  np.testing.assert_array_equal(pipeline(["a", "b"]), want)
  np.testing.assert_array_equal(pipeline("a"), want[:1])


def test_seeds_must_fit_the_prompts():
  with pytest.raises(UserError, match="seeds"):
    _pipeline()(["a", "b"], seeds=[1])
  with pytest.raises(UserError, match="seed -1"):
    _pipeline()(["a"], seeds=[-1])


def test_broken_weights_are_reported():
  broken = jax.tree.map(lambda a: a * jnp.nan, PARAMS)
  with pytest.raises(UserError, match="not finite"):
    _pipeline(params=broken)(["a"], seeds=[0])


class Broken(Blocks):
  def decode(self, latent, *, frames):
    return super().decode(latent, frames=frames) * jnp.nan


def test_a_broken_autoencoder_is_reported():
  with pytest.raises(UserError, match="not finite"):
    _pipeline(autoencoder=Broken())(["a"], seeds=[0])


class TiledBlocks(Blocks):
  factors = (8, 8, 8)
  latent = 3


def test_clips_larger_than_a_tile_are_decoded_in_tiles_and_others_are_not():
  """Blocks have no seams in space, and in time only where tiles fade."""
  changes = {"model": Field(max_frames=8), "autoencoder": TiledBlocks()}
  texts, seeds = ["red", "blue", ""], [1, 2, 3]
  whole, pipeline = _pipeline(**changes, tiling=Tiling(frames=512)), _pipeline(**changes)
  small = pipeline(texts, seeds=seeds, frames=32)
  np.testing.assert_array_equal(whole(texts, seeds=seeds, frames=32), small)
  assert "tiles" not in pipeline._compiled
  tiled, untiled = (p(texts, seeds=seeds, frames=45) for p in (pipeline, whole))
  assert "tiles" in pipeline._compiled and "tiles" not in whole._compiled
  assert tiled.shape == untiled.shape == (3, 45, 16, 24, 3) and tiled.dtype == np.uint8
  # Overlapping tiles hold the same blocks, so fading between them changes nothing but rounding.
  assert np.abs(tiled.astype(int) - untiled).max() <= 1


def test_wide_frames_are_decoded_in_tiles():
  changes = {"model": Field(), "autoencoder": TiledBlocks()}
  size = {"height": 48, "width": 24}
  whole = _pipeline(**changes)(["a"], seeds=[1], **size)
  tiled = _pipeline(**changes, tiling=Tiling(side=24, border=8))(["a"], seeds=[1], **size)
  assert np.abs(tiled.astype(int) - whole).max() <= 1


def test_broken_weights_are_reported_before_tiles_are_decoded():
  broken = jax.tree.map(lambda a: a * jnp.nan, PARAMS)
  pipeline = _pipeline(params=broken, model=Field(max_frames=8), autoencoder=TiledBlocks())
  with pytest.raises(UserError, match="model produced values that are not finite"):
    pipeline(["a"], seeds=[0], frames=45)


class Knowing(nn.Module):
  """A field that reads a first frame and a clean mask beside text."""

  def routes(self):
    return conditioning.table({
      "text": {"kind": "cross", "features": 6}, "first": {"kind": "concat", "features": 4},
      "known": {"kind": "clean"},
    })  # fmt: skip

  @nn.compact
  def __call__(self, x, t_B, cond):
    inner = Field(name="field")
    v = inner(x, t_B, {"text": cond["text"]})
    known = cond.get("known", jnp.zeros(x.shape[:4], bool))
    mean = (x * known[..., None]).sum(1, keepdims=True)
    # Pulls towards the first frame, and what is unknown towards what is known.
    return v + 3 * (cond["first"].sum(1, keepdims=True)[..., :3] - x) + mean

  @nn.compact
  def encode(self, cond):
    return cond | Field(name="field").encode(cond) if "ids" in cond["text"] else cond


class Coded(Blocks):
  factors = (8, 8, 8)
  latent = 3

  def encode(self, video):
    shape = video.shape
    blocks = video.reshape(shape[0], -1, min(8, shape[1]), shape[2] // 8, 8, shape[3] // 8, 8, 3)
    return blocks.mean((2, 4, 6)), None


def _knowing(batch=2, **fields):
  return _pipeline(
    batch, model=Knowing(), params={"field": PARAMS}, autoencoder=Coded(),
    conditions={"first": Latent(3)}, settings=dataclasses.replace(SETTINGS, frames=16, width=16),
    **fields,
  )  # fmt: skip


def test_a_clip_starts_from_its_first_frame_whatever_its_company():
  colours = [140, 120, 120], [120, 120, 140]
  red, blue = (np.broadcast_to(np.uint8(colour), (16, 16, 3)) for colour in colours)
  pipeline = _knowing()
  clips = pipeline(["a"] * 3, seeds=[1, 1, 1], given=[{"first": red}, {}, {"first": blue}])
  assert clips[0][..., 0].mean() > clips[1][..., 0].mean() > clips[2][..., 0].mean()
  np.testing.assert_array_equal(pipeline(["a"], seeds=[1], given=[{"first": blue}])[0], clips[2])
  np.testing.assert_array_equal(pipeline(["a"], seeds=[1])[0], clips[1])
  # It is no part of the guidance of text, unless it gets a scale of its own.
  guided = pipeline(["a"], seeds=[1], given=[{"first": red}], guidance="first:2,text:3")[0]
  assert np.abs(guided.astype(int) - clips[0]).max() > 1


@pytest.mark.parametrize("given,message", [
  ([{"first": np.zeros((8, 16, 3), np.uint8)}], "the first frame is 8x16; fit it to 16x16"),
  ([{}, {}], "1 prompts but 2 groups of conditions"),
  ([{"face": np.zeros(3)}], "this model has no condition 'face'; it has first"),
])
def test_conditions_that_do_not_fit(given, message):
  with pytest.raises(UserError, match=message):
    _knowing()(["a"], seeds=[0], given=given)
  assert _knowing().first_frame == "first"
  with pytest.raises(UserError, match="not trained to take a first frame"):
    _ = _pipeline().first_frame


@pytest.mark.parametrize("frames", [3, 8, 20])
def test_a_continued_clip_keeps_what_was_given_and_goes_on_without_a_jump(frames):
  pipeline = _knowing()
  ramp = np.arange(19, dtype=np.uint8)[:, None, None, None] * 5
  clip = np.broadcast_to(ramp, (19, 16, 16, 3)).astype(np.uint8)
  out = pipeline.extend(clip, frames, prompt="a", seed=3)
  assert out.shape == (19 + frames, 16, 16, 3) and out.dtype == np.uint8
  np.testing.assert_array_equal(out[:11], clip[:11])
  # The last given frame has faded into its reconstruction, which new frames join.
  again = pipeline.encode(clip[None, -8:])
  decoded = pipeline.decode(again, dataclasses.replace(pipeline.settings, frames=8))[0]
  np.testing.assert_allclose(out[18].astype(int), decoded[-1], atol=1)
  longer = pipeline.extend(clip, frames + 8, prompt="a", seed=3)
  np.testing.assert_array_equal(longer[: 19 + frames], out)
  assert (pipeline.extend(clip, frames, prompt="a", seed=4)[19:] != out[19:]).any()


def test_what_cannot_be_continued():
  with pytest.raises(UserError, match="not trained to continue clips"):
    _pipeline().extend(np.zeros((8, 16, 24, 3), np.uint8), 8)
  with pytest.raises(UserError, match="has 7 frames; at least 8"):
    _knowing().extend(np.zeros((7, 16, 16, 3), np.uint8), 8)
  with pytest.raises(UserError, match="fit it to 16x16"):
    _knowing().extend(np.zeros((8, 16, 24, 3), np.uint8), 8)
