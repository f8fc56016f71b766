import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.schema import Sample
from mg_jax.data.text import prompts as text
from mg_jax.data.text.condition import Text
from mg_jax.data.text.readers import Reader, TextConfig
from mg_jax.data.text.tokenizers import open_tokenizer
from mg_jax.data.transforms import FrameRow, LatentRow, VideoRow

TEXT = {"text": Text(24, reader=Reader(TextConfig(length=24), open_tokenizer("bytes")))}
LONG = Reader(TextConfig(length=64), open_tokenizer("bytes"))

VIDEO = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None, None, None], (8, 4, 4, 3))
CLIP = Sample(VIDEO, frames=6, fps=8.0, caption="a", key="k")
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
  row = LatentRow(TEXT, mean=(1.0, 2.0), std=(2.0, 4.0))(5, record, rng())
  np.testing.assert_allclose(row["latent"].reshape(2, 2), [[-0.5, -0.25], [0.5, 0.25]])
  assert row["latent"].dtype == np.float32
  assert row["fps"] == 16 and row["fps"].dtype == np.float32 and row["index"] == 5
  assert text.decode_bytes(row["text"]["ids"]) == "FPS-16 a dog"
  assert row["text"]["ids"].shape == row["text"]["mask"].shape == (24,)


def test_images_have_no_rate():
  image = {"latent": LATENT[:1], "caption": "a dog", "fps": 1.0}
  assert text.decode_bytes(LatentRow(TEXT)(0, image, rng())["text"]["ids"]) == "a dog"


def test_what_the_camera_does_is_told_where_it_is_known_and_wanted():
  video = {"latent": LATENT, "caption": "a dog", "fps": 8.0, "camera": "pan left"}
  told = lambda row, record: text.decode_bytes(row(0, record, rng())["text"]["ids"])  # noqa: E731
  assert told(LatentRow(TEXT), video) == "FPS-8 a dog"
  assert told(LatentRow(TEXT, camera=True), video) == "FPS-8 Pan left. a dog"
  assert told(LatentRow(TEXT, camera=True), video | {"camera": ""}) == "FPS-8 a dog"


def test_cached_features_are_those_of_the_wording_drawn_and_padded():
  features = {"text/t5/0": np.full((2, 3), 1.0), "text/t5/1": np.full((4, 3), 2.0)}
  record = {"latent": LATENT, "captions": ["one", "other"], "fps": 8.0, **features}
  row = LatentRow(TEXT | {"t5": Text(4, features=3, cached=True)})
  seen = set()
  for k in range(20):
    got = row(0, record, rng(k))
    wording = text.decode_bytes(got["text"]["ids"]).removeprefix("FPS-8 ")
    value, count = {"one": (1.0, 2), "other": (2.0, 4)}[wording]
    seen.add(wording)
    assert got["t5"]["mask"].tolist() == [True] * count + [False] * (4 - count)
    np.testing.assert_array_equal(got["t5"]["features"][:count], np.full((count, 3), value))
    assert not got["t5"]["features"][count:].any()
  assert seen == {"one", "other"}


def test_every_wording_is_drawn():
  record = {"latent": LATENT, "captions": ["one", "two", "three"], "fps": 8.0}
  row = LatentRow(TEXT)
  drawn = {text.decode_bytes(row(0, record, rng(k))["text"]["ids"]) for k in range(50)}
  assert drawn == {"FPS-8 one", "FPS-8 two", "FPS-8 three"}


@pytest.mark.parametrize("mean, std", [((0.0,), ()), ((0.0,), (0.0,)), ((0.0,), (float("nan"),))])
def test_impossible_statistics_are_refused(mean, std):
  with pytest.raises(ValueError, match="std"):
    LatentRow(TEXT, mean=mean, std=std)


CAPTIONS = ("a red star", "one star", "there is a star and it is red and it is on the left")
WORDED = Sample(VIDEO, frames=6, fps=8.0, caption=CAPTIONS[0], key="k", variants=CAPTIONS[1:])


def _drawn(clip, mix, draws=400, **fields):
  row = FrameRow(LONG, captions=mix, short_length=11, **fields)
  texts = [text.decode_bytes(row(0, clip, rng(k))["text"]["ids"]) for k in range(draws)]
  return {caption: texts.count(caption) / draws for caption in set(texts)}


def test_a_frame_is_the_middle_one_of_the_real_ones():
  row = FrameRow(LONG)(3, CLIP, rng())
  assert row["image"].shape == (4, 4, 3) and row["image"].dtype == np.uint8
  assert set(row["image"].ravel()) == {3}, "of six real frames"
  assert row["index"] == 3 and row["index"].dtype == np.int32
  assert row["text"]["ids"].shape == row["text"]["mask"].shape == (64,)
  one = Sample(VIDEO[:1], frames=1, fps=8.0, caption="a", key="k")
  assert FrameRow(LONG)(0, one, rng())["image"].max() == 0


def test_captions_are_drawn_from_their_kind():
  assert set(_drawn(WORDED, "short")) == set(CAPTIONS[:2]), "eleven tokens are still short"
  assert set(_drawn(WORDED, "long")) == {CAPTIONS[2]}
  assert _drawn(WORDED, "all")[CAPTIONS[2]] == pytest.approx(1 / 3, abs=0.08)
  assert _drawn(WORDED, "mixed")[CAPTIONS[2]] == pytest.approx(1 / 2, abs=0.08)


def test_a_missing_kind_of_caption():
  assert _drawn(CLIP, "mixed", draws=9) == {"a": 1.0}
  with pytest.raises(UserError, match="clip 'k' has no long caption .*at most 11 tokens"):
    _drawn(CLIP, "long")
