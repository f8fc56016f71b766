"""The sampler on fields that can be solved by hand, whole, in windows and in segments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.sampling import sampler
from mg_jax.sampling.sampler import Known
from mg_jax.sampling.solvers import integrate
from mg_jax.sampling.windows import Windows, starts

TIMES = np.linspace(0, 1, 5)
COUNT, CHANNELS = 3, 2


def _noise(length, seed=0, count=COUNT):
  shape = (count, length, 1, 1, CHANNELS)
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _known(length, at=(), seed=1, clean=False):
  values = np.random.default_rng(seed).normal(size=(1, length, 1, 1, CHANNELS))
  mask = np.isin(np.arange(length), at)[None, :, None, None]
  return Known(jnp.asarray(values, jnp.float32), jnp.asarray(mask), clean=clean)


def _context(known):
  return {"context": jnp.where(known.mask[..., None], known.latent, 0)}


def _linear(x, t, window, beside):
  """A field that treats every frame alike, so that all windows agree."""
  return (1 - x) * 0.7 + t * x[..., ::-1]


def _telling(x, t, window, beside):
  """A field of the whole window, of its context and of which window it is."""
  number = jnp.asarray(window, jnp.float32)[:, None, None, None, None]
  return jnp.sin(x - x.mean(1, keepdims=True)) + beside["context"] - 0.1 * number * (1 + t)


def _diffuse(
  field, noise, known=None, *, window=10, hop=7, rows=4, times=TIMES, method="midpoint",
  shape="triangular", multiple=1,
):  # fmt: skip
  length = noise.shape[1]
  known = _known(length) if known is None else known
  windows = Windows.of((length, 1, 1), window=(window, 1, 1), hop=(hop, 1, 1), shape=shape)
  return sampler.sample(
    field, noise, times, method=method, known=known, beside=_context(known), windows=windows,
    rows=rows, multiple=multiple,
  )  # fmt: skip


def _one_shot(field, noise, *, method="midpoint"):
  none = {"context": jnp.zeros_like(noise)}
  return integrate(
    lambda x, t: field(x, t, jnp.zeros(len(x)), none), noise, TIMES, method=method
  )


def _autoregress(field, noise, known=None, *, window=10, hop=7, select=None):
  length = noise.shape[1]
  window = min(window, length)

  def solve(noise, given, context, segment, j):
    return sampler.follow(
      lambda x, t, _, beside: field(x, t, jnp.full(len(x), j), beside), noise, TIMES,
      method="midpoint", known=given, segment=segment, beside={"context": context},
    )  # fmt: skip

  return sampler.Autoregression(solve, select)(
    noise, _known(length) if known is None else known, window=window, steps=len(TIMES) - 1,
    starts_J=starts(length, window=window, hop=min(hop, window)),
  )  # fmt: skip


@pytest.mark.parametrize("method", ["euler", "midpoint"])
@pytest.mark.parametrize("shape", ["triangular", "uniform"])
def test_windows_that_agree_equal_one_shot(method, shape):
  noise = _noise(38)
  expected = _one_shot(_linear, noise, method=method)
  made = _diffuse(_linear, noise, method=method, shape=shape)
  np.testing.assert_allclose(made, expected, atol=1e-5)
  if method == "midpoint":
    np.testing.assert_allclose(_autoregress(_linear, noise), expected, atol=1e-5)


@pytest.mark.parametrize("run", [_diffuse, _autoregress])
def test_one_window_is_plain_sampling(run):
  noise = _noise(9)
  np.testing.assert_allclose(run(_telling, noise), _one_shot(_telling, noise), atol=1e-5)


def test_windows_along_every_axis_agree_with_one_call():
  noise = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 9, 7, CHANNELS)), jnp.float32)
  windows = Windows.of((5, 9, 7), window=(4, 4, 8), hop=(2, 3, 8))
  field = lambda x, t, window, beside: _linear(x, t, window, beside) + beside["low"]  # noqa: E731
  low = {"low": noise[..., :1]}
  whole = sampler.sample(field, noise, TIMES, beside=low)
  for rows in (1, 4, 100):
    cut = sampler.sample(field, noise, TIMES, beside=low, windows=windows, rows=rows)
    np.testing.assert_allclose(cut, whole, atol=1e-5)


def test_midpoint_keeps_its_order_where_windows_disagree():
  noise = _noise(38)

  def error(steps, exact):
    made = _diffuse(_telling, noise, times=np.linspace(0, 1, steps + 1))
    return np.abs(made - exact).max()

  exact = _diffuse(_telling, noise, times=np.linspace(0, 1, 257))
  assert 3.3 < error(4, exact) / error(8, exact) < 4.9


def test_a_call_has_few_windows_and_how_many_changes_nothing():
  noise, seen = _noise(38), set()

  def spy(x, t, window, beside):
    assert x.shape == beside["context"].shape == (len(window), 10, 1, 1, CHANNELS)
    seen.add(len(window))
    return _telling(x, t, window, beside)

  made = _diffuse(spy, noise, rows=6)
  assert seen == {6}
  for rows in (1, 100):
    np.testing.assert_allclose(_diffuse(_telling, noise, rows=rows), made, atol=1e-6)
  for rows, multiple, taken in ((6, 4, 12), (6, 3, 6), (100, 16, 48), (1, 5, 15)):
    seen.clear()
    padded = _diffuse(spy, noise, rows=rows, multiple=multiple)
    assert seen == {taken}, "the least multiple that holds as many windows of all samples"
    np.testing.assert_allclose(padded, made, atol=1e-6)


@pytest.mark.parametrize("run", [_diffuse, _autoregress])
def test_candidates_do_not_mix(run):
  noise = _noise(38)
  together = run(_telling, noise)
  for k in range(COUNT):
    np.testing.assert_allclose(run(_telling, noise[k : k + 1])[0], together[k], atol=1e-6)


@pytest.mark.parametrize("run", [_diffuse, _autoregress])
def test_known_frames_are_context_stay_on_their_path_and_come_back(run):
  length, noise, given = 38, _noise(38, count=1), [0, 1, 12, 13, 14, 37]
  known, met = _known(length, given), []
  values, mask = known.latent[0], known.mask[0, :, 0, 0]
  first = starts(length, window=10, hop=7)

  def spy(x, t, window, beside):
    for state, context, j in zip(x, beside["context"], np.asarray(window), strict=True):
      part = slice(first[j], first[j] + 10)
      given_n = mask[part]
      path = t * values[part] + (1 - t) * noise[0, part]
      np.testing.assert_allclose(state[given_n], path[given_n], atol=1e-4)
      np.testing.assert_array_equal(context[given_n], values[part][given_n])
      met.append((j, float(t)))
      if run is _diffuse:
        np.testing.assert_array_equal(context[~given_n], 0)
    return _telling(x, t, window, beside)

  with jax.disable_jit():
    made = run(spy, noise, known)
  np.testing.assert_array_equal(made[0][mask], values[mask])
  assert {j for j, _ in met} == set(range(len(first)))
  assert {t for _, t in met} == {i / 8 for i in range(8)}  # half steps too
  free = run(_telling, noise)
  assert np.abs(made[0, 2:12] - free[0, 2:12]).max() > 0.01  # what is known matters


def test_clean_latents_are_data_from_the_first_step():
  noise, known, states = _noise(9), _known(9, [0, 1, 8], clean=True), []

  def spy(x, t, window, beside):
    states.append(x)
    return _telling(x, t, window, beside)

  with jax.disable_jit():
    made = sampler.sample(spy, noise, TIMES, known=known, beside=_context(known))
  assert len(states) == 4
  for x in [*states, made]:
    for k in (0, 1, 8):
      np.testing.assert_array_equal(x[:, k], jnp.broadcast_to(known.latent[:, k], x[:, k].shape))
  np.testing.assert_array_equal(states[0][:, 2:8], noise[:, 2:8])


@pytest.mark.parametrize("run", [_diffuse, _autoregress])
def test_windows_of_which_all_is_known_cost_nothing(run):
  noise, seen = _noise(38), set()
  known = _known(38, range(24))

  def spy(x, t, window, beside):
    seen.update(np.asarray(window).tolist())
    return _telling(x, t, window, beside)

  with jax.disable_jit():
    made = run(spy, noise, known)
  assert seen == {3, 4}  # which end at frames 31 and 38
  np.testing.assert_array_equal(
    made[:, :24], jnp.broadcast_to(known.latent[:, :24], (3, 24, 1, 1, 2))
  )


def test_a_segment_has_the_end_of_the_one_before_it_as_context():
  noise, contexts, ends = _noise(24), {}, {}

  def spy(x, t, window, beside):
    contexts[int(window[0])] = beside["context"]
    return _telling(x, t, window, beside)

  def remember(x, j):
    ends[j] = np.array(x)
    return np.arange(COUNT)

  with jax.disable_jit():
    made = _autoregress(spy, noise, select=remember)
  np.testing.assert_array_equal(contexts[0], 0)
  for j in (1, 2):
    np.testing.assert_array_equal(contexts[j][:, :3], ends[j - 1][:, 7:])
    np.testing.assert_array_equal(contexts[j][:, 3:], 0)
    # The first frame that both have is the old one; the last is nearly that of the new segment.
    np.testing.assert_array_equal(ends[j][:, 0], ends[j - 1][:, 7])
    assert (ends[j][:, 2] != ends[j - 1][:, 9]).any()
  np.testing.assert_array_equal(made[:, 7:17], np.concatenate([ends[1][:, :7], ends[2][:, :3]], 1))


def test_shared_frames_are_mixed_by_their_place_after_every_step():
  """Fields that are constant within a segment give the mixture in closed form."""
  noise = _noise(17, count=1)
  made = _autoregress(lambda x, t, window, _: jnp.full_like(x, window[0]), noise)[0, :, 0, 0]
  noise = noise[0, :, 0, 0]
  w = np.arange(3)[:, None] / 3
  drift = np.zeros((3, 1))  # of the second segment from the first, whose field is zero
  for _ in range(4):
    drift = w * (drift + 0.25)
  np.testing.assert_allclose(made[7:10], noise[7:10] + drift, atol=1e-6)
  np.testing.assert_allclose(made[:7], noise[:7], atol=1e-6)
  np.testing.assert_allclose(made[10:], noise[10:] + 1, atol=1e-6)


def test_a_beam_carries_on_with_the_chosen_past_and_its_noise():
  noise, chosen = _noise(24), np.array([2, 2, 0])

  def select(x, j):
    return chosen if j == 0 else np.arange(COUNT)

  made = _autoregress(_telling, noise, select=select)
  expected = noise.at[:, :10].set(noise[chosen, :10])
  np.testing.assert_allclose(made, _autoregress(_telling, expected), atol=1e-6)
  np.testing.assert_array_equal(made[0, :7], made[1, :7])
  assert (made[0, 12:] != made[1, 12:]).any()


def test_the_best_go_on():
  np.testing.assert_array_equal(sampler.best(np.array([0.0, 3, 1, 3]), keep=1), [1, 1, 1, 1])
  np.testing.assert_array_equal(sampler.best(np.array([0.0, 3, 1, 2]), keep=3), [1, 3, 2, 1])
  assert sorted(sampler.best(np.arange(4.0), keep=4)) == [0, 1, 2, 3]
