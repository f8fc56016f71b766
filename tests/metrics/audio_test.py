"""Streaming fidelity against whole sounds; loudness against what the standard says of tones."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.losses import audio as losses
from mg_jax.metrics.audio import SoundFidelity, loudness

RATE = 4000


def pair(samples, seed=0):
  rng = np.random.default_rng(seed)
  target = rng.uniform(-0.5, 0.5, samples).astype(np.float32)
  return (target + 0.1 * rng.standard_normal(samples)).astype(np.float32), target


def test_any_blocks_give_what_the_excerpts_give():
  made, target = pair(8000)
  whole, cut = SoundFidelity(rate=RATE), SoundFidelity(rate=RATE)
  whole.add(made, target)
  for start in range(0, 8000, 333):
    cut.add(made[start : start + 333], target[start : start + 333])
  found, other = whole.compute(), cut.compute()
  assert found == pytest.approx(other) and found["seconds"] == 2.0 and found["sounds"] == 1
  rows = jax.jit(lambda a, b: losses.mel_distance(a, b, rate=RATE))(
    jnp.asarray(made.reshape(2, -1)), jnp.asarray(target.reshape(2, -1))
  )
  want = float(rows.mean())
  assert found["mel"] == pytest.approx(want, rel=1e-4)
  ratio = losses.si_sdr(jnp.asarray(made[None]), jnp.asarray(target[None]))[0]
  assert found["si_sdr"] == pytest.approx(float(ratio), abs=1e-3)


def test_sounds_are_kept_apart():
  both, *single = (SoundFidelity(rate=RATE) for _ in range(3))
  for k, one in enumerate(single):
    for fidelity in (one, both):
      fidelity.add(*pair(4000, seed=k))
      fidelity.end()
  first, second = (one.compute() for one in single)
  found = both.compute()
  assert found["sounds"] == 2 and found["seconds"] == first["seconds"] + second["seconds"]
  for name in ("mel", "stft", "si_sdr"):
    assert found[name] == pytest.approx((first[name] + second[name]) / 2)
  nothing = SoundFidelity(rate=RATE).compute()
  assert math.isnan(nothing["mel"]) and math.isnan(nothing["si_sdr"]) and nothing["sounds"] == 0
  with pytest.raises(ValueError, match="cannot be compared"):
    both.add(np.zeros(3), np.zeros(4))


@pytest.mark.slow
def test_silence_and_a_single_sample_are_measured():
  fidelity = SoundFidelity(rate=RATE)
  fidelity.add(np.zeros(1, np.float32), np.zeros(1, np.float32))
  found = fidelity.compute()
  assert found["mel"] < 1e-5 and math.isfinite(found["si_sdr"])


def test_loudness_of_tones_is_that_of_the_standard():
  tone = np.sin(2 * np.pi * 997 * np.arange(5 * 48_000) / 48_000)
  # BS.1770: a full-scale sine of 997 Hz in one channel reads -3.01 LUFS, in both channels 0.
  assert loudness(tone, rate=48_000) == pytest.approx(-3.01, abs=0.05)
  assert loudness(np.stack([tone, tone], 1), rate=48_000) == pytest.approx(0.0, abs=0.05)
  assert loudness(0.1 * tone, rate=48_000) == pytest.approx(-23.01, abs=0.05)
  assert loudness(np.zeros(48_000), rate=48_000) == -math.inf


def test_sound_shorter_than_a_block_has_no_loudness():
  noise = np.random.default_rng(0).uniform(-0.5, 0.5, 48_000)
  assert math.isnan(loudness(noise[:19_199], rate=48_000))
  assert math.isfinite(loudness(noise[:19_200], rate=48_000))


def test_loudness_of_other_arrays_is_refused():
  for wave, words in (
    (np.zeros((48_000, 3)), "give \\(T,\\) or \\(T, 2\\)"),
    (np.full(48_000, np.nan), "non-finite"),
  ):
    with pytest.raises(ValueError, match=words):
      loudness(wave, rate=48_000)
