"""Gaps and seams: a perfect filling scores best, a bad one worst, a joint that clicks is found."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.media import audio, muxing
from mg_jax.data.sources.soundtracks import SoundtrackConfig
from mg_jax.evaluation.toy_context import held_out, score_infill, score_seams

RATE = audio.RATE
TOY = SoundtrackConfig(
  source="toy", clips=2, held_out=6, chunks=((2.0, 1),), fps=5.0, size=16, global_batch=1
)


class Pipeline:
  """Makes a sound by a function of the request; its codec loses nothing."""

  rate, origin = RATE, "made up"
  codec = SimpleNamespace(encode=lambda wave: wave, decode=lambda wave, length: wave[:length])

  def __init__(self, make):
    self.make, self.asked = make, []

  def spans(self, seconds):
    return [(0.0, 4.0), (3.0, 7.0), (6.0, seconds)]

  def __call__(self, request):
    self.asked.append(request)
    return SimpleNamespace(wave=np.asarray(self.make(request), np.float32))


def test_a_perfect_filling_is_as_good_as_the_codec_and_silence_is_not(tmp_path):
  pipeline = Pipeline(lambda request: request.known)
  report = score_infill(pipeline, TOY, tmp_path, count=3, gap_s=0.8, inputs="video")
  rows = report.rows
  assert rows["made"] == rows["codec"] and rows["made"]["mel"] < 1e-5
  assert min(rows["silence"]["mel"], rows["repetition"]["mel"]) > 0.3
  assert json.loads((tmp_path / "infill.json").read_text())["count"] == 3
  assert "repetition" in report.table and (tmp_path / "infill_02.wav").exists()
  request = pipeline.asked[0]
  assert request.captions == ("",) and request.video is not None
  assert request.keep == ((0.0, pytest.approx(0.6)), (pytest.approx(1.4), 2.0))


def test_only_the_gap_is_judged(tmp_path):
  """What is made beside the gap is given, whatever it is."""
  def make(request):
    wave = np.zeros_like(request.known)
    begin, end = (round(t * RATE) for t in (request.keep[0][1], request.keep[1][0]))
    wave[begin:end] = request.known[begin:end]
    return wave

  rows = score_infill(Pipeline(make), TOY, tmp_path, count=2, gap_s=0.8).rows
  assert rows["made"]["mel"] < 1e-5
  rows = score_infill(
    Pipeline(lambda r: np.zeros_like(r.known)), TOY, tmp_path, count=2, gap_s=0.8
  ).rows
  assert rows["made"] == rows["silence"]


def test_a_gap_that_leaves_nothing_around_it_is_told(tmp_path):
  with pytest.raises(UserError, match="gap of 1.5 s with 0.5 s around it"):
    score_infill(Pipeline(None), TOY, tmp_path, count=2, gap_s=1.5)


@pytest.mark.parametrize("clicks", [True, False])
def test_windows_that_click_are_found(tmp_path, clicks):
  def make(request):
    wave = 0.05 * np.random.default_rng(request.seed).standard_normal(round(10 * RATE))
    if clicks:
      for seam in (3.0, 4.0, 6.0, 7.0):
        wave[round(seam * RATE) :][:200] += 0.8
    return np.clip(wave, -1, 1)

  rows = score_seams(Pipeline(make), TOY, tmp_path, count=3, seconds=10.0).rows
  assert rows["elsewhere"]["alarms"] < 0.2
  assert rows["seams"]["alarms"] == 1.0 if clicks else rows["seams"]["low"] < 0.2
  report = json.loads((tmp_path / "seams.json").read_text())
  assert report["seams_s"] == [3.0, 4.0, 6.0, 7.0] and report["count"] == 3
  assert 0 <= rows["true"]["low"] <= rows["true"]["alarms"] <= rows["true"]["high"] <= 1


def test_one_window_has_no_seams(tmp_path):
  pipeline = Pipeline(None)
  pipeline.spans = lambda seconds: [(0.0, seconds)]
  with pytest.raises(UserError, match="in one window"):
    score_seams(pipeline, TOY, tmp_path)


def test_takes_of_a_folder_come_with_their_pictures_first(tmp_path):
  tone = 0.3 * np.sin(np.arange(2 * RATE) / 20).astype(np.float32)
  audio.write_wav(tmp_path / "a.wav", tone)
  frames = np.zeros((10, 16, 16, 3), np.uint8)
  muxing.write_clip(tmp_path / "b.mp4", frames, tone, fps=5.0)
  data = dataclasses.replace(
    TOY, source="folder", path=str(tmp_path), holdout="none", caption_required=False
  )
  takes = held_out(data, rate=RATE)
  assert [read().video is not None for read in takes] == [True, False]
