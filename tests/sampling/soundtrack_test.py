"""The soundtrack pipeline on random weights: modes, lengths, what is given, seeds, limits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.sampling import scorers
from mg_jax.sampling.sound_request import Request
from mg_jax.sampling.windows import Windows
from tests.sampling.networks import RATE, frames, soundtrack


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
  return soundtrack(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("seconds", [1 / RATE, 0.1, 0.737, 2.3])
def test_sounds_have_their_length_and_range(pipeline, seconds):
  made = pipeline(Request(seconds, video=frames))
  assert made.wave.shape == (round(seconds * RATE),) and made.wave.dtype == np.float32
  assert np.abs(made.wave).max() <= 1 and made.chosen == 0 and made.scores == (0.0,)


def test_every_condition_and_the_seed_change_the_sound(pipeline):
  base = Request(0.8, captions=("a bell rings",), video=frames)
  waves = [
    pipeline(request).wave
    for request in (
      base,
      dataclasses.replace(base, captions=("",)),
      dataclasses.replace(base, video=None),
      dataclasses.replace(base, seed=1),
    )
  ]
  assert all(np.abs(a - b).max() > 1e-5 for i, a in enumerate(waves) for b in waves[:i])
  np.testing.assert_array_equal(pipeline(base).wave, waves[0])


def test_a_request_gives_values_of_other_conditions(tmp_path):
  style = {"kind": "class_id", "classes": 2, "route": {"kind": "modulate", "classes": 2}}
  pipeline = soundtrack(tmp_path, conditions={"style": style})
  waves = [pipeline(Request(0.4, given=given)).wave for given in ({}, {"style": 0}, {"style": 1})]
  assert all(np.abs(a - b).max() > 1e-5 for i, a in enumerate(waves) for b in waves[:i])
  with pytest.raises(UserError, match="this model has no condition 'mood'; it has style"):
    pipeline(Request(0.4, given={"mood": 0}))


def test_nothing_asked_for_is_the_null_of_guidance(pipeline):
  plain, guided = (pipeline(Request(0.8), guidance=scale).wave for scale in (1.0, 7.0))
  np.testing.assert_allclose(plain, guided, atol=1e-5)
  plain, guided = (
    pipeline(Request(0.8, video=frames), guidance=scale).wave for scale in (1.0, 7.0)
  )
  assert np.abs(plain - guided).max() > 1e-5


def test_a_longer_window_begins_with_the_same_noise(pipeline):
  short, long = (pipeline._noise(3, 2, length) for length in (10, 25))
  np.testing.assert_array_equal(short, long[:, :10])
  assert np.abs(long[0] - long[1]).min() > 0 and abs(long.std() - 1) < 0.2


@pytest.mark.parametrize("form", ["multidiffusion", "autoregressive"])
def test_what_is_given_stays_as_it_is(pipeline, form):
  known = 0.5 * np.sin(np.arange(round(2.4 * RATE)) / 20).astype(np.float32)
  request = Request(2.4, known=known, keep=((0.0, 0.9), (1.5, 2.4)), video=frames)
  made = pipeline(request, long_form=form)
  for begin, end in ((0, 14_400), (24_000, 38_400)):
    np.testing.assert_array_equal(made.wave[begin:end], known[begin:end])
  gap = slice(14_400 + 400, 24_000 - 400)
  # What lies in the gap of the given sound is not heard: it is made.
  silent = known.copy()
  silent[14_400:24_000] = 0
  np.testing.assert_array_equal(
    made.wave, pipeline(dataclasses.replace(request, known=silent), long_form=form).wave
  )
  assert np.abs(made.wave[gap]).max() > 0
  free = pipeline(Request(2.4, video=frames), long_form=form).wave
  assert np.abs(made.wave[gap] - free[gap]).max() > 1e-5


def test_given_and_made_sound_join_without_a_jump(pipeline):
  known = np.full(RATE, 0.5, np.float32)
  made = pipeline(Request(1.0, known=known, keep=((0.0, 0.5),)))
  jump = np.abs(np.diff(made.wave))[8000 - 2 : 8000 + 320].max()
  assert jump < 0.05 + np.abs(np.diff(made.wave[8320:])).max()


def test_long_videos_are_read_window_by_window(pipeline):
  asked = []
  request = Request(3.1, video=functools.partial(frames, asked=asked))
  pipeline(request)
  spans = pipeline.spans(3.1)
  np.testing.assert_allclose(asked, spans)
  assert len(spans) == 4
  assert max(end - start for start, end in asked) <= 1.0 + 1e-6


def test_every_window_may_have_its_caption(pipeline):
  count = len(pipeline.spans(2.0))
  words = tuple("abcdefg"[:count])
  one = pipeline(Request(2.0, captions=words)).wave
  other = pipeline(Request(2.0, captions=(*words[:-1], "z"))).wave
  # The last window begins behind the middle, and reaches those before it by what they share.
  changed = np.abs(one - other)
  assert changed[-8000:].max() > 1e-2 > changed[:8000].max()
  with pytest.raises(UserError, match=f"there are 2 captions for {count} windows"):
    pipeline(Request(2.0, captions=("a", "b")))


@pytest.mark.parametrize("form", ["multidiffusion", "autoregressive"])
def test_another_hop_is_another_layout_of_as_many_windows(pipeline, form):
  hops = 0.8, 0.72
  assert len({len(pipeline.spans(2.3, hop_s=hop)) for hop in hops}) == 1
  waves = [pipeline(Request(2.3), hop_s=hop, long_form=form).wave for hop in hops]
  fresh = dataclasses.replace(pipeline)(Request(2.3), hop_s=hops[1], long_form=form).wave
  np.testing.assert_array_equal(waves[1], fresh)
  assert np.abs(waves[0] - waves[1]).max() > 1e-6


def test_a_condition_without_a_scale_of_its_own_still_counts(pipeline):
  seen, blind = (
    pipeline(Request(0.8, captions=("rain",), video=video), guidance="text:3").wave
    for video in (frames, None)
  )
  assert np.abs(seen - blind).max() > 1e-5


@pytest.mark.parametrize("form", ["multidiffusion", "autoregressive"])
def test_the_scorer_chooses(pipeline, form):
  best = 2

  def scorer(pair, latents, **where):
    return np.eye(len(latents))[best]

  wave = dataclasses.replace(pipeline, scorer=scorer)(Request(1.9), candidates=4, long_form=form)
  assert wave.chosen == best and wave.scores == (0.0, 0.0, 1.0, 0.0)
  beam = dataclasses.replace(pipeline, scorer=scorer)(
    Request(1.9), candidates=4, long_form="autoregressive", beam=1
  )
  assert beam.wave.shape == wave.wave.shape


def test_fit_prefers_what_the_conditions_explain():
  """Of a network that knows one sound, told or not, that sound scores best."""
  rng = np.random.default_rng(0)
  target, other = rng.standard_normal((2, 6, 1, 1, 3)).astype(np.float32)

  def pair(x, t, window, beside):
    return jnp.zeros_like(x), (target - x) / jnp.maximum(1 - t, 1e-3)

  scores = scorers.fit(
    pair, jnp.stack([other, target]), beside={}, seed=jnp.uint32(0),
    windows=Windows.of((6, 1, 1), window=(6, 1, 1), hop=(6, 1, 1)),
  )
  assert scores[1] > scores[0]


def test_one_candidate_is_the_first_of_several_and_is_not_scored(pipeline):
  def scorer(pair, latents, **where):
    assert len(latents) == 3
    return np.eye(3)[0]

  first = dataclasses.replace(pipeline, scorer=scorer)(Request(1.0), candidates=3)
  alone = dataclasses.replace(pipeline, scorer=scorer)(Request(1.0), candidates=1)
  assert first.chosen == 0 and alone.scores == (0.0,)
  np.testing.assert_allclose(alone.wave, first.wave, atol=1e-4)


def test_what_cannot_be_made_is_told(pipeline):
  with pytest.raises(UserError, match="there is no setting tempo"):
    pipeline(Request(1.0), tempo=3)
  with pytest.raises(UserError, match="trained on sounds of at most 1.0 s"):
    pipeline(Request(1.0), window_s=2.0)
  broken = jax.tree.map(lambda x: x * jnp.nan, pipeline.params)
  with pytest.raises(UserError, match="not finite"):
    dataclasses.replace(pipeline, params=broken)(Request(1.0))
