import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data import text
from mg_jax.data.schema import Clip
from mg_jax.data.transforms import FrameRow, LatentRow, VideoRow

VIDEO = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None, None, None], (8, 4, 4, 3))
CLIP = Clip(VIDEO, frames=6, fps=8.0, caption="a", key="k")
LATENT = np.arange(2 * 1 * 1 * 2, dtype=np.float16).reshape(2, 1, 1, 2)


def rng(seed=0):
  return np.random.default_rng(seed)


def test_whole_clip():
  row = VideoRow()(3, CLIP, rng())
  assert row["video"].shape == (8, 4, 4, 3) and row["frames"] == 6 and row["index"] == 3
  assert row["frames"].dtype == row["index"].dtype == np.int32


def test_random_frames_reach_every_real_one_and_no_other():
  drawn = [VideoRow(frames=1)(0, CLIP, rng(k)) for k in range(100)]
  assert {row["video"].shape for row in drawn} == {(1, 4, 4, 3)}
  assert {int(row["video"].max()) for row in drawn} == set(range(6))
  assert {int(row["frames"]) for row in drawn} == {1}


def test_random_window_is_contiguous_and_counts_its_real_frames():
  for k in range(20):
    row = VideoRow(frames=3)(0, CLIP, rng(k))
    start = row["video"][0, 0, 0, 0]
    assert row["video"][:, 0, 0, 0].tolist() == [start, start + 1, start + 2] and start <= 3
  row = VideoRow(frames=7)(0, CLIP, rng())
  assert row["video"].shape[0] == 7 and row["frames"] == 6
  with pytest.raises(ValueError, match="fewer than 9"):
    VideoRow(frames=9)(0, CLIP, rng())


def test_latent_is_normalised_per_channel():
  record = {"latent": LATENT, "caption": "a dog", "fps": 16}
  row = LatentRow(16, mean=(1.0, 2.0), std=(2.0, 4.0))(5, record, rng())
  np.testing.assert_allclose(row["latent"].reshape(2, 2), [[-0.5, -0.25], [0.5, 0.25]])
  assert row["latent"].dtype == np.float32
  assert row["fps"] == 16 and row["fps"].dtype == np.float32 and row["index"] == 5
  assert text.decode_bytes(row["text"]["ids"]) == "FPS-16 a dog"
  assert row["text"]["ids"].shape == row["text"]["mask"].shape == (16,)


def test_images_and_untagged_prompts_have_no_rate():
  image = {"latent": LATENT[:1], "caption": "a dog", "fps": 1.0}
  assert text.decode_bytes(LatentRow(16)(0, image, rng())["text"]["ids"]) == "a dog"
  video = {"latent": LATENT, "caption": "a dog", "fps": 8.0}
  row = LatentRow(16, tag_fps=False)(0, video, rng())
  assert text.decode_bytes(row["text"]["ids"]) == "a dog"


def test_every_wording_is_drawn():
  record = {"latent": LATENT, "captions": ["one", "two", "three"], "fps": 8.0}
  row = LatentRow(16, tag_fps=False)
  drawn = {text.decode_bytes(row(0, record, rng(k))["text"]["ids"]) for k in range(50)}
  assert drawn == {"one", "two", "three"}


@pytest.mark.parametrize("mean, std", [((0.0,), ()), ((0.0,), (0.0,)), ((0.0,), (float("nan"),))])
def test_impossible_statistics_are_refused(mean, std):
  with pytest.raises(ValueError, match="std"):
    LatentRow(16, mean=mean, std=std)


CAPTIONS = ("a red star", "one star", "there is a star and it is red and it is on the left")
WORDED = Clip(VIDEO, frames=6, fps=8.0, caption=CAPTIONS[0], key="k", variants=CAPTIONS[1:])


def _drawn(clip, mix, draws=400, **fields):
  row = FrameRow(64, captions=mix, short_length=11, **fields)
  texts = [text.decode_bytes(row(0, clip, rng(k))["text"]["ids"]) for k in range(draws)]
  return {caption: texts.count(caption) / draws for caption in set(texts)}


def test_a_frame_is_the_middle_one_of_the_real_ones():
  row = FrameRow(16)(3, CLIP, rng())
  assert row["image"].shape == (4, 4, 3) and row["image"].dtype == np.uint8
  assert set(row["image"].ravel()) == {3}, "of six real frames"
  assert row["index"] == 3 and row["index"].dtype == np.int32
  assert row["text"]["ids"].shape == row["text"]["mask"].shape == (16,)
  one = Clip(VIDEO[:1], frames=1, fps=8.0, caption="a", key="k")
  assert FrameRow(16)(0, one, rng())["image"].max() == 0


def test_captions_are_drawn_from_their_kind():
  assert set(_drawn(WORDED, "short")) == set(CAPTIONS[:2]), "eleven tokens are still short"
  assert set(_drawn(WORDED, "long")) == {CAPTIONS[2]}
  assert _drawn(WORDED, "all")[CAPTIONS[2]] == pytest.approx(1 / 3, abs=0.08)
  assert _drawn(WORDED, "mixed")[CAPTIONS[2]] == pytest.approx(1 / 2, abs=0.08)


def test_a_missing_kind_of_caption():
  assert _drawn(CLIP, "mixed", draws=9) == {"a": 1.0}
  with pytest.raises(UserError, match="clip 'k' has no long caption .*at most 11 tokens"):
    _drawn(CLIP, "long")
