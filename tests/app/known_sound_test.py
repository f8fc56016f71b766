"""Where a given sound lies in the result, what of it stays, and which sounds cannot be used."""

import numpy as np
import pytest

from mg_jax.app.known_sound import parse_extend, parse_infill, place
from mg_jax.core.errors import UserError
from mg_jax.data.media.audio import write_wav
from tests.data.media.audio_test import tone, write

RATE = 8000


@pytest.fixture
def sound(tmp_path):
  """Two seconds."""
  write_wav(tmp_path / "a.wav", tone(2.0, RATE), rate=RATE)
  return tmp_path / "a.wav"


def test_extend_goes_both_ways():
  assert parse_extend([]) == (0, 0)
  assert parse_extend([5.0]) == (0, 5) and parse_extend([-3.0, 5.0]) == (3, 5)
  for wrong in ([0.0], [np.inf], [np.nan], [1.0, 2.0], [-1.0, -2.0]):
    with pytest.raises(UserError, match="--extend"):
      parse_extend(wrong)


def test_infill_spans_are_ordered_and_joined():
  assert parse_infill(["2.0:3.5"]) == ((2.0, 3.5),)
  assert parse_infill(["4:5", "1:2", "1.5:3"]) == ((1, 3), (4, 5))
  for wrong in ("2", "2:2", "3:2", "-1:2", "a:b", "1:2:3", "1:inf", "nan:2", ""):
    with pytest.raises(UserError, match="give START:END in seconds"):
      parse_infill([wrong])


def test_a_sound_alone_grows_at_both_ends(sound):
  given = place(sound, rate=RATE, extend=(0.5, 1.0))
  assert given.seconds == 3.5 and given.wave.shape == (28_000,) and given.wave.dtype == np.float32
  assert given.keep == ((0.5, 2.5),) and given.generated == [(0, 0.5), (2.5, 3.5)]
  np.testing.assert_allclose(given.wave[4000:20_000], tone(2.0, RATE), atol=1e-4)
  assert not given.wave[:4000].any() and not given.wave[20_000:].any()


def test_infill_counts_from_the_start_of_the_sound_as_it_was_given(sound):
  given = place(sound, rate=RATE, extend=(0.5, 0), infill=[(0.5, 1.0)])
  assert given.generated == [(0, 0.5), (1.0, 1.5)] and given.keep == ((0.5, 1.0), (1.5, 2.5))
  assert place(sound, rate=RATE, infill=[(0, 0.5)]).keep == ((0.5, 2.0),)
  assert place(sound, rate=RATE, infill=[(1.5, 2.0)]).keep == ((0, 1.5),)
  with pytest.raises(UserError, match="reaches beyond .*a.wav, which ends at 2.00 s"):
    place(sound, rate=RATE, infill=[(1.5, 2.1)])
  with pytest.raises(UserError, match="--infill covers all of its sound"):
    place(sound, rate=RATE, infill=[(0, 2)])


def test_beside_a_picture_the_result_is_as_long_as_that(sound):
  given = place(sound, rate=RATE, picture_s=4.0, extend=(0.5, 1.0), infill=[(1.0, 1.5)])
  assert given.seconds == 4.0 and len(given.wave) == 32_000
  assert given.generated == [(0, 0.5), (1.0, 1.5), (2.5, 3.5)]
  assert given.keep[-1] == (3.5, 4.0), "what follows stays silent"
  with pytest.raises(UserError, match="leaves no room"):
    place(sound, rate=RATE, picture_s=4.0, extend=(0, 2.5))
  # As long as containers round: what juts out is cut off.
  assert place(sound, rate=RATE, picture_s=1.95, infill=[(0, 1)]).keep == ((1.0, 1.95),)


def test_the_own_sound_of_a_video_stays_where_it_is(tmp_path):
  wave = np.concatenate([np.zeros(8000, "f4"), tone(1.0, RATE) + 0.01, np.zeros(8000, "f4")])
  write_wav(tmp_path / "own.wav", wave, rate=RATE)
  own = {"rate": RATE, "picture_s": 3.0, "own": True}
  given = place(tmp_path / "own.wav", extend=(0.5, 0.25), **own)
  assert given.generated == [(0.5, 1.0), (2.0, 2.25)]
  assert given.keep == ((0, 0.5), (1.0, 2.0), (2.25, 3.0))
  np.testing.assert_allclose(given.wave, wave, atol=1e-4)
  for extend in ((1.5, 0), (0, 1.5)):
    with pytest.raises(UserError, match="is at 1.00 to 2.00 s of a video of 3.00 s"):
      place(tmp_path / "own.wav", extend=extend, **own)


@pytest.mark.parametrize(
  "samples, words",
  [(0, "no samples"), (1, "too short"), (700, "too short"), (None, "its sound is silent")],
)
def test_sounds_that_hold_too_little(tmp_path, samples, words):
  wave = np.zeros(8000) if samples is None else np.full(samples, 0.5)
  write_wav(tmp_path / "a.wav", wave, rate=RATE)
  with pytest.raises(UserError, match=words):
    place(tmp_path / "a.wav", rate=RATE, extend=(0, 1.0))


def test_any_rate_and_channels_are_taken_and_what_is_too_loud_is_clipped(tmp_path):
  six = np.stack([tone(1.0, 44_100)] * 6)
  write(tmp_path / "six.wav", six, rate=44_100, layout="5.1")
  given = place(tmp_path / "six.wav", rate=48_000, extend=(0, 1.0))
  assert len(given.wave) == pytest.approx(96_000, abs=100)
  write(tmp_path / "loud.wav", 4 * six[:1], rate=44_100, layout="mono")
  wave = place(tmp_path / "loud.wav", rate=44_100, extend=(0, 1.0)).wave
  assert np.abs(wave).max() == 1.0
  write(tmp_path / "dc.wav", np.full((1, 8000), 0.25, "f4"), rate=RATE, layout="mono")
  np.testing.assert_allclose(place(tmp_path / "dc.wav", rate=RATE, extend=(0, 1)).wave[:8000], 0.25)
  write(tmp_path / "nan.wav", np.full((1, 8000), np.nan, "f4"), rate=RATE, layout="mono")
  with pytest.raises(UserError, match="not finite"):
    place(tmp_path / "nan.wav", rate=RATE, extend=(0, 1.0))
