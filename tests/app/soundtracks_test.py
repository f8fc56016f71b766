"""Files in, files out: pictures stay as they are, nothing is half written, mistakes are told."""

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest

from mg_jax.app import soundtracks
from mg_jax.app.soundtracks import Order, frames_of, make
from mg_jax.core.errors import UserError
from mg_jax.data.media import audio, muxing, video
from mg_jax.metrics.audio import loudness
from mg_jax.sampling.sound_request import SoundSettings
from tests.data.media.audio_test import tone
from tests.data.media.muxing_test import packets

RATE = 48_000


@dataclasses.dataclass(frozen=True)
class Made:
  wave: np.ndarray
  scores: np.ndarray
  chosen: int


class Fake:
  """In place of a pipeline: a tone wherever nothing is given, and the requests it was asked."""

  rate, size, origin, settings = RATE, (16, 24), "step 1, abc", SoundSettings(candidates=2)

  def __init__(self, fail=None):
    self.requests, self.changes, self.frames, self.fail = [], [], [], fail

  def __call__(self, request, **changes):
    self.requests.append(request)
    self.changes.append(changes)
    window = changes.get("window_s", 10.0)
    for start in np.arange(0, request.seconds, window) if request.video else ():
      frames, fps = request.video(start, min(start + window, request.seconds))
      assert frames.dtype == np.uint8 and frames.shape[1:] == (*self.size, 3)
      self.frames.append((len(frames), fps))
    if self.fail:
      raise self.fail
    wave = tone(request.seconds, RATE, hz=300.0, level=0.3)
    for start, end in request.keep:
      part = slice(round(start * RATE), round(end * RATE))
      wave[part] = request.known[part]
    return Made(wave, np.array([0.1, 0.7]), 1)


@pytest.fixture
def clip(tmp_path):
  """A video of two seconds without a sound."""
  frames = np.random.default_rng(0).integers(0, 255, (16, 32, 48, 3), np.uint8)
  video.write_video(tmp_path / "in.mp4", frames, fps=8)
  return tmp_path / "in.mp4"


@pytest.fixture
def spoken(tmp_path, clip):
  """The same with a tone for the first second."""
  muxing.add_sound(clip, tone(1.0, RATE), out=tmp_path / "own.mp4")
  return tmp_path / "own.mp4"


def names(folder):
  return sorted(p.name for p in folder.iterdir())


def test_a_video_gets_its_sound_and_keeps_its_picture(tmp_path, clip):
  out, pipeline = tmp_path / "new" / "out.mp4", Fake()
  paths = make(
    Order(str(out), video=str(clip), prompts=("rain",), seed=7), lambda: pipeline, steps=3
  )
  assert {"out.mp4", "out.wav", "out.json"} <= set(names(out.parent)) and out in paths
  assert set(names(out.parent)) == {p.name for p in paths}
  assert packets(out) == packets(clip)
  wave = audio.read_audio(out.with_suffix(".wav"))
  np.testing.assert_allclose(wave, tone(2.0, RATE, hz=300.0, level=0.3), atol=1e-4)
  assert audio.probe(out).rate == RATE and video.probe(out).has_audio
  [request] = pipeline.requests
  assert request.seconds == 2.0 and request.seed == 7 and request.keep == ()
  assert request.captions == (
    'Audio quality: 7.0. No speech. No singing. Sound: "rain". Music likelihood: 0.01. Music: "".',
  )
  assert pipeline.frames == [(16, 8.0)] and pipeline.changes == [{"steps": 3}]
  record = json.loads(out.with_suffix(".json").read_text())
  assert record["scores"] == [0.1, 0.7] and record["chosen"] == 1 and record["seed"] == 7
  assert record["settings"]["steps"] == 3 and record["settings"]["candidates"] == 2
  assert record["origin"] == "step 1, abc" and record["made"] == [[0.0, 2.0]]
  assert record["loudness_lufs"] == pytest.approx(loudness(wave, rate=RATE), abs=0.01)


def test_without_a_prompt_there_is_no_text_at_all(tmp_path, clip):
  pipeline = Fake()
  make(Order(str(tmp_path / "a.mp4"), video=str(clip)), lambda: pipeline)
  make(Order(str(tmp_path / "b.mp4"), video=str(clip), prompts=("",)), lambda: pipeline)
  make(Order(str(tmp_path / "c.mp4"), video=str(clip), music=("a piano",)), lambda: pipeline)
  assert [r.captions for r in pipeline.requests[:2]] == [("",), ("",)]
  assert 'likelihood: 0.90. Music: "a piano"' in pipeline.requests[2].captions[0]


def test_windows_have_prompts_of_their_own():
  order = Order("a.wav", seconds=9.0, prompts=("rain", "wind"), music=("a piano",))
  captions, _ = order.captions()
  assert len(captions) == 2 and all("a piano" in caption for caption in captions)
  assert '"rain"' in captions[0] and '"wind"' in captions[1]
  with pytest.raises(UserError, match="2 prompts and 3 of music"):
    dataclasses.replace(order, music=("a", "b", "c")).check()


def test_sound_from_text_alone(tmp_path):
  pipeline = Fake()
  make(Order(str(tmp_path / "a.wav"), prompts=("rain",), seconds=1.5), lambda: pipeline)
  assert len(audio.read_audio(tmp_path / "a.wav")) == 72_000
  assert pipeline.requests[0].video is None and pipeline.requests[0].known is None
  assert set(names(tmp_path)) <= {"a.wav", "a.json", "a.png"}


@pytest.mark.parametrize("seconds, level", [(0.3, 0.3), (1.0, 0.0)])
def test_short_sound_and_silence_have_no_loudness_in_their_record(
  tmp_path, monkeypatch, seconds, level
):
  wave = tone(seconds, RATE, level=level)
  monkeypatch.setattr(Fake, "__call__", lambda *_, **__: Made(wave, np.zeros(1), 0))
  make(Order(str(tmp_path / "a.wav"), prompts=("rain",), seconds=seconds), Fake)
  assert json.loads((tmp_path / "a.json").read_text())["loudness_lufs"] is None


def test_infill_keeps_the_rest_of_the_videos_own_sound(tmp_path, spoken):
  out, pipeline = tmp_path / "out.mp4", Fake()
  make(Order(str(out), video=str(spoken), infill=("0.25:0.5",)), lambda: pipeline)
  assert pipeline.requests[0].keep == ((0, 0.25), (0.5, 2.0))
  was, now = audio.read_audio(spoken), audio.read_audio(out.with_suffix(".wav"))
  assert np.abs(now[:12_000] - was[:12_000]).max() < 1e-4
  assert np.abs(now[24_000:48_000] - was[24_000:48_000]).max() < 1e-4
  assert np.abs(now[12_000:24_000] - was[12_000:24_000]).max() > 0.1
  assert packets(out) == packets(spoken)


def test_extension_of_a_sound_both_ways(tmp_path):
  audio.write_wav(tmp_path / "in.wav", tone(1.0, RATE))
  out = tmp_path / "out.wav"
  order = Order(str(out), sound=str(tmp_path / "in.wav"), extend=(1.0, -0.5))
  make(order, Fake)
  wave = audio.read_audio(out)
  assert len(wave) == 120_000
  np.testing.assert_allclose(wave[24_000:72_000], tone(1.0, RATE), atol=1e-4)
  assert json.loads(out.with_suffix(".json").read_text())["made"] == [[0, 0.5], [1.5, 2.5]]


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"out": "a.wav", "video": "in.mp4"}, "a video with its sound is saved as .mp4"),
    ({"out": "a.mp4", "seconds": 1.0, "prompts": ("x",)}, "a sound is saved as .wav"),
    ({"out": "a", "video": "in.mp4"}, "saved as .mp4"),
    ({"out": "in.mp4", "video": "in.mp4"}, "in.mp4 would be overwritten"),
    ({"out": "in.wav", "sound": "in.wav", "extend": (1.0,)}, "in.wav would be overwritten"),
    ({"out": "there.mp4", "video": "in.mp4"}, "there.wav exists already; pass --overwrite"),
    ({"out": "folder.mp4", "video": "in.mp4"}, "folder.mp4 is a folder"),
    ({"out": "in.wav/a.mp4", "video": "in.mp4"}, "in.wav cannot be written"),
    ({"out": "a.wav", "prompts": ("x",)}, "--seconds is missing"),
    ({"out": "a.wav", "prompts": ("x",), "seconds": -1.0}, "--seconds=-1 is not a valid"),
    ({"out": "a.wav", "prompts": ("x",), "seconds": float("nan")}, "--seconds=nan is not a valid"),
    ({"out": "a.wav", "prompts": (" ",), "seconds": 1.0}, "no prompt given"),
    ({"out": "a.wav", "sound": "in.wav"}, "give --extend or --infill"),
    ({"out": "a.wav", "extend": (1.0,)}, "need a sound"),
    ({"out": "a.mp4", "video": "in.mp4", "seconds": 1.0}, "--seconds is for sound from text"),
    ({"out": "a.mp4", "video": "missing.mp4"}, "there is no such file"),
    ({"out": "a.mp4", "video": "in.wav"}, "no video stream"),
    ({"out": "a.mp4", "video": "half.mp4"}, "half.mp4"),
    ({"out": "a.mp4", "video": "text.mp4"}, "cannot be decoded"),
    ({"out": "a.mp4", "video": "in.mp4", "infill": ("0:1",)}, "no audio stream"),
    ({"out": "a.mp4", "video": "in.mp4", "extend": (1.0,)}, "no audio stream"),
    ({"out": "a.mp4", "video": "quiet.mp4", "extend": (1.0,)}, "its sound is silent"),
    ({"out": "a.mp4", "video": "own.mp4", "infill": ("1:3",)}, "reaches beyond"),
    ({"out": "a.mp4", "video": "own.mp4", "infill": ("2",)}, "is not a span"),
    ({"out": "a.mp4", "video": "own.mp4", "extend": (5.0,)}, "leaves no room"),
    ({"out": "a.mp4", "video": "in.mp4", "seed": -1}, "seed -1"),
  ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
  tmp_path, clip, spoken, monkeypatch, fields, words
):
  monkeypatch.chdir(tmp_path)
  audio.write_wav("in.wav", tone(1.0, RATE))
  audio.write_wav("there.wav", tone(0.1, RATE))
  (tmp_path / "folder.mp4").mkdir()
  (tmp_path / "text.mp4").write_text("no video " * 99)
  (tmp_path / "half.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
  muxing.add_sound(clip, np.zeros(9, "f4"), out="quiet.mp4")
  before = names(tmp_path)
  with pytest.raises(UserError) as caught:
    make(Order(**fields), Fake)
  assert words in str(caught.value) and "\n" not in str(caught.value)
  assert names(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("values"), MemoryError()])
def test_what_breaks_off_leaves_the_old_files(tmp_path, clip, error):
  for name in ("out.mp4", "out.wav", "out.json"):
    (tmp_path / name).write_text("old")
  order = Order(str(tmp_path / "out.mp4"), video=str(clip), overwrite=True)
  with pytest.raises(type(error)):
    make(order, lambda: Fake(fail=error))
  assert names(tmp_path) == ["in.mp4", "out.json", "out.mp4", "out.wav"]
  assert (tmp_path / "out.mp4").read_text() == "old"
  make(order, Fake)
  assert packets(tmp_path / "out.mp4") == packets(clip)


def test_a_wish_for_a_voice_is_answered(tmp_path, caplog):
  out = str(tmp_path / "a.wav")
  order = Order(out, prompts=("a man speaks",), music=("she sings",), seconds=1.0)
  make(order, Fake)
  assert "asks for a voice (speaks, sings), but neither" in caplog.text
  assert "(speaks, sings)" in json.loads((tmp_path / "a.json").read_text())["notices"][0]


def test_without_matplotlib_there_is_a_warning_and_no_picture(tmp_path, monkeypatch, caplog):
  def fail(*_, **__):
    raise UserError("the plot needs matplotlib")

  monkeypatch.setattr(soundtracks.sound_plots, "plot", fail)
  (tmp_path / "a.png").write_text("of another sound")
  order = Order(str(tmp_path / "a.wav"), prompts=("rain",), seconds=1.0, overwrite=True)
  assert [p.name for p in make(order, Fake)] == ["a.wav", "a.json"]
  assert "no plot: the plot needs matplotlib" in caplog.text
  assert names(tmp_path) == ["a.json", "a.wav"]


def test_a_tenth_of_a_second(tmp_path):
  video.write_video(tmp_path / "in.mp4", np.zeros((3, 32, 32, 3), np.uint8), fps=30)
  pipeline = Fake()
  make(Order(str(tmp_path / "a.mp4"), video=str(tmp_path / "in.mp4")), lambda: pipeline)
  assert pipeline.frames == [(3, 30.0)] and len(audio.read_audio(tmp_path / "a.wav")) == 4800


def test_spans_of_a_video_are_its_frames(tmp_path):
  shades = np.arange(0, 240, 8, dtype=np.uint8)
  frames = np.broadcast_to(shades[:, None, None, None], (30, 32, 32, 3))
  video.write_video(tmp_path / "in.mp4", frames, fps=10, crf=0)
  read = frames_of(tmp_path / "in.mp4", video.probe(tmp_path / "in.mp4"), size=(8, 8))
  spans = (0, 3, 0, 30), (1, 2, 10, 20), (0.95, 2.31, 10, 24), (2.9, 9, 29, 30)
  for start, end, first, last in spans:
    got, fps = read(start, end)
    assert fps == 10.0
    np.testing.assert_allclose(got[:, 4, 4, 0].astype(int), shades[first:last], atol=3)
  assert len(read(2.99, 3.0)[0]) == 1, "no span is without a frame"


def test_ten_minutes_are_read_in_bounded_memory(tmp_path):
  still = np.zeros((64, 64, 3), np.uint8)
  video.write_frames(tmp_path / "in.mp4", (still for _ in range(6000)), fps=10)
  info = video.probe(tmp_path / "in.mp4")
  read = frames_of(tmp_path / "in.mp4", info, size=(64, 64))
  total = 0
  tracemalloc.start()
  for start in range(0, 600, 10):
    total += len(read(start, start + 10)[0])
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert total == 6000 and peak < 4 * 100 * still.nbytes  # one window, of 60
