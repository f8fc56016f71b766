import math

import pytest

from mg_jax.data import buckets
from mg_jax.data.buckets import PAPER_DURATIONS, Bucket, Duration


@pytest.mark.parametrize(
  "duration_s, frames, fps",
  [
    (4, 128, 32),
    (6, 128, 128 / 6),
    (8, 192, 24),
    (10, 192, 19.2),
    (10.67, 256, 24),
    (11.5, 256, 24),
    (12, 256, 256 / 12),
    (14, 256, 256 / 14),
    (16, 256, 16),
    (60, 256, 16),
  ],
)
def test_paper_table(duration_s, frames, fps):
  row = buckets.assign(duration_s, PAPER_DURATIONS)
  assert row.frames == frames
  assert row.fps(duration_s) == pytest.approx(fps)
  assert 16 <= row.fps(duration_s) <= 32


def test_paper_ranges_of_fps():
  ranges = [tuple(round(fps) for fps in row.fps_range) for row in PAPER_DURATIONS]
  assert ranges == [(24, 24), (16, 16), (16, 21), (16, 24), (16, 32)]


def test_too_short_for_every_row_is_none():
  assert buckets.assign(3.99, PAPER_DURATIONS) is None
  assert buckets.assign(1.9, buckets.TINY_DURATIONS) is None


def test_tiny_row_is_two_seconds_at_eight_fps():
  row = buckets.assign(9.6, buckets.TINY_DURATIONS)
  assert (row.frames, row.clip_seconds(9.6), row.fps(9.6)) == (16, 2, 8)


def test_images_are_one_frame_of_any_duration():
  row = buckets.assign(0, buckets.IMAGE_DURATIONS)
  assert row.frames == 1 and row.fps(0) == 1 and row.fps(100) == 1


def test_sizes_of_the_768_stage():
  assert buckets.frame_sizes(768) == {
    "1:1": (768, 768),
    "4:3": (672, 880),
    "3:4": (880, 672),
    "16:9": (576, 1024),
    "9:16": (1024, 576),
  }


def test_sizes_of_the_256_stage():
  assert buckets.frame_sizes(256) == {
    "1:1": (256, 256),
    "4:3": (224, 288),
    "3:4": (288, 224),
    "16:9": (192, 336),
    "9:16": (336, 192),
  }


@pytest.mark.parametrize("base", [256, 512, 768, 1024])
def test_sizes_keep_area_and_ratio(base):
  for name, (height, width) in buckets.frame_sizes(base).items():
    wide, high = map(int, name.split(":"))
    assert height % 16 == 0 and width % 16 == 0
    assert abs(math.log(height * width / base**2)) < 0.05
    assert abs(math.log(width / height * high / wide)) < 0.05


def test_odd_base_is_refused():
  with pytest.raises(ValueError, match="100"):
    buckets.frame_sizes(100)


@pytest.mark.parametrize(
  "height, width, expected",
  [(720, 1280, (576, 1024)), (1080, 1080, (768, 768)), (1920, 1080, (1024, 576))],
)
def test_find_takes_row_and_nearest_aspect(height, width, expected):
  choices = buckets.make_buckets(PAPER_DURATIONS, 768)
  found = buckets.find(5.0, height, width, choices)
  assert found == Bucket(PAPER_DURATIONS[-1], *expected)
  assert found.name == f"128x{expected[0]}x{expected[1]}"


def test_find_beyond_every_row_is_none():
  assert buckets.find(1.0, 9, 16, buckets.make_buckets(PAPER_DURATIONS, 256)) is None


@pytest.mark.parametrize(
  "row", [(2, 1, 8), (0, 4, 0), (1, math.inf, 8), (1, 4, 8, 2), (0, 4, 8, 0)]
)
def test_impossible_rows_are_refused(row):
  with pytest.raises(ValueError):
    Duration(*row)


def test_half_a_frame_may_be_lacking():
  row = Duration(16 / 29.97, 100, 16, clip_s=16 / 29.97)
  exact = 16 * 1001 / 30000
  assert exact < row.min_s and buckets.assign(exact, [row]) is None
  assert buckets.assign(exact, [row], frame_s=1001 / 30000) is row
  assert buckets.assign(15.4 / 29.97, [row], frame_s=1001 / 30000) is None
  # Of the shorter frame of the two: slow videos do not stretch over fast rows.
  assert buckets.assign(3.9, PAPER_DURATIONS, frame_s=1.0) is None
  assert buckets.assign(3.99, PAPER_DURATIONS, frame_s=1.0).frames == 128
  assert row.slack_s(0.001) == 0.0005
  found = buckets.find(exact, 9, 16, [Bucket(row, 9, 16)], frame_s=1001 / 30000)
  assert found == Bucket(row, 9, 16)
