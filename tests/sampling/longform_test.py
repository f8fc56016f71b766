import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mg_jax.core.errors import UserError
from mg_jax.sampling import longform
from mg_jax.sampling.solvers import integrate

TIMES = np.linspace(0, 1, 5)
COUNT, CHANNELS = 3, 2


def _noise(length, seed=0, count=COUNT):
  return np.random.default_rng(seed).normal(size=(count, length, CHANNELS)).astype(np.float32)


def _nothing(length):
  return longform.Known(np.zeros((length, CHANNELS), np.float32), np.zeros(length, bool))


def _linear(x, context, windows, t):
  """A field that treats every frame alike, so that all windows agree."""
  return (1 - x) * 0.7 + t * x[..., ::-1]


def _telling(x, context, windows, t):
  """A field of the whole window, of its context and of which window it is."""
  window = np.asarray(windows, np.float32)[:, None, None]
  return jnp.sin(x - x.mean(1, keepdims=True)) + context - 0.1 * window * (1 + t)


def _diffuse(velocity, noise, known=None, *, window=10, hop=7, method="midpoint", **changes):
  length = noise.shape[1]
  starts = longform.starts(length, window=window, hop=hop)
  masks = longform.masks(
    starts, length=length, window=window, shape=changes.pop("shape", "triangular")
  )
  settings = {"times": TIMES, "rows": 4} | changes
  return longform.multi_diffusion(
    velocity, noise, known or _nothing(length), starts_J=starts, masks_Jn=masks, method=method,
    **settings,
  )  # fmt: skip


def _one_shot(velocity, noise, *, method="midpoint"):
  none = jnp.zeros(noise.shape)

  def field(x, t):
    return velocity(x, none, (0,) * len(noise), t)

  return np.asarray(integrate(field, jnp.asarray(noise), TIMES, method=method))


def _autoregress(velocity, noise, known=None, *, window=10, hop=7, **changes):
  length = noise.shape[1]
  settings = {"times": TIMES, "rows": 4, "method": "midpoint"} | changes
  return longform.autoregression(
    velocity, noise, known or _nothing(length), window=window,
    starts_J=longform.starts(length, window=window, hop=hop), **settings,
  )  # fmt: skip


sizes = st.tuples(st.integers(1, 400), st.integers(1, 90), st.integers(1, 90)).map(
  lambda s: (s[0], max(s[1:]), min(s[1:]))
)


@given(sizes)
def test_windows_cover_the_whole_and_stay_inside(size):
  length, window, hop = size
  starts = longform.starts(length, window=window, hop=hop)
  n = min(window, length)
  assert starts[0] == 0 and starts[-1] + n == length
  steps = np.diff(starts)
  assert (steps[:-1] == hop).all() and (steps > 0).all() and (steps <= hop).all()
  # As many as are needed: without the last one, frames at the end would be missing.
  assert len(starts) == 1 or starts[-2] + window < length


@given(sizes, st.sampled_from(["triangular", "uniform"]))
def test_masks_sum_to_one_on_every_frame(size, shape):
  length, window, hop = size
  starts = longform.starts(length, window=window, hop=hop)
  masks = longform.masks(starts, length=length, window=window, shape=shape)
  total = np.zeros(length)
  for start, mask in zip(starts, masks, strict=True):
    total[start : start + len(mask)] += mask
  np.testing.assert_allclose(total, 1, rtol=0, atol=3e-7)
  assert masks.shape == (len(starts), min(window, length)) and (masks > 0).all()


def test_a_triangle_gives_way_to_the_next_window_and_a_uniform_one_halves():
  starts = longform.starts(17, window=10, hop=7)
  triangle = longform.masks(starts, length=17, window=10)
  np.testing.assert_array_equal(triangle[0, :7], 1)  # alone, the end at 0 included
  assert (np.diff(triangle[0, 7:]) < 0).all() and triangle[0, 9] < 1e-5
  assert (np.diff(triangle[1, :3]) > 0).all()
  uniform = longform.masks(starts, length=17, window=10, shape="uniform")
  np.testing.assert_array_equal(uniform[0, 7:], 0.5)


def test_hops_that_cannot_be():
  with pytest.raises(UserError, match="choose 1..10"):
    longform.starts(30, window=10, hop=11)
  with pytest.raises(UserError, match="choose 1..10"):
    longform.starts(30, window=10, hop=0)


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


def test_midpoint_keeps_its_order_where_windows_disagree():
  noise = _noise(38)

  def error(steps, exact):
    made = _diffuse(_telling, noise, times=np.linspace(0, 1, steps + 1))
    return np.abs(made - exact).max()

  exact = _diffuse(_telling, noise, times=np.linspace(0, 1, 257))
  assert 3.3 < error(4, exact) / error(8, exact) < 4.9


@pytest.mark.parametrize("run", [_diffuse, _autoregress])
def test_the_network_sees_few_windows_at_a_time_and_how_many_changes_nothing(run):
  noise, seen = _noise(38), []

  def spy(x, context, windows, t):
    assert x.shape == context.shape == (len(windows), 10, CHANNELS)
    seen.append(len(windows))
    return _telling(x, context, windows, t)

  made = run(spy, noise, rows=2)
  assert max(seen) == 2
  np.testing.assert_allclose(run(_telling, noise, rows=100), made, atol=1e-6)


@pytest.mark.parametrize("run", [_diffuse, _autoregress])
def test_candidates_do_not_mix(run):
  noise = _noise(38)
  together = run(_telling, noise)
  for k in range(COUNT):
    np.testing.assert_allclose(run(_telling, noise[k : k + 1])[0], together[k], atol=1e-6)


@pytest.mark.parametrize("run", [_diffuse, _autoregress])
def test_known_frames_are_told_stay_on_their_path_and_come_back(run):
  length, noise = 38, _noise(38)
  values = np.random.default_rng(1).normal(size=(length, CHANNELS)).astype(np.float32)
  mask = np.isin(np.arange(length), [0, 1, 12, 13, 14, 37])
  known = longform.Known(values, mask)
  starts = longform.starts(length, window=10, hop=7)
  met = []

  def spy(x, context, windows, t):
    for state, told, j in zip(x, context, windows, strict=True):
      given_n = mask[starts[j] : starts[j] + 10]
      expected = t * values[starts[j] : starts[j] + 10] + (1 - t) * noise[:1, starts[j] :][0, :10]
      np.testing.assert_allclose(state[given_n], expected[given_n], atol=1e-4)
      np.testing.assert_array_equal(told[given_n], values[starts[j] : starts[j] + 10][given_n])
      met.append((j, t))
      if run is _diffuse:
        np.testing.assert_array_equal(told[~given_n], 0)
    return _telling(x, context, windows, t)

  made = run(spy, noise[:1], known)
  np.testing.assert_allclose(made[0, mask], values[mask], atol=1e-4)
  assert {j for j, _ in met} == set(range(len(starts)))
  assert {t for _, t in met} == {i / 8 for i in range(8)}  # half steps too
  free = run(_telling, noise[:1])
  assert np.abs(made[0, 2:12] - free[0, 2:12]).max() > 0.01  # what is told matters


@pytest.mark.parametrize("run", [_diffuse, _autoregress])
def test_windows_of_which_all_is_known_cost_nothing(run):
  noise, seen = _noise(38), set()
  values = _noise(38, seed=5)[0]
  known = longform.Known(values, np.arange(38) < 24)

  def spy(x, context, windows, t):
    seen.update(windows)
    return _telling(x, context, windows, t)

  made = run(spy, noise, known)
  assert seen == {3, 4}  # which end at frames 31 and 38
  np.testing.assert_allclose(made[:, :24], np.broadcast_to(values[:24], (3, 24, 2)), atol=1e-4)


def test_a_segment_has_the_end_of_the_one_before_it_as_context():
  noise, contexts, ends = _noise(24), {}, {}

  def spy(x, context, windows, t):
    contexts[windows[0]] = context
    return _telling(x, context, windows, t)

  def remember(x, j):
    ends[j] = x.copy()
    return np.arange(COUNT)

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
  made = _autoregress(lambda x, c, windows, t: np.full_like(x, windows[0]), noise)
  w = np.arange(3)[:, None] / 3
  drift = np.zeros((3, 1))  # of the second segment from the first, whose field is zero
  for _ in range(4):
    drift = w * (drift + 0.25)
  np.testing.assert_allclose(made[0, 7:10], noise[0, 7:10] + drift, atol=1e-6)
  np.testing.assert_allclose(made[0, :7], noise[0, :7], atol=1e-6)
  np.testing.assert_allclose(made[0, 10:], noise[0, 10:] + 1, atol=1e-6)


def test_a_beam_carries_on_with_the_chosen_past_and_its_noise():
  noise, chosen = _noise(24), np.array([2, 2, 0])

  def select(x, j):
    return chosen if j == 0 else np.arange(COUNT)

  made = _autoregress(_telling, noise, select=select)
  expected = noise.copy()
  expected[:, :10] = noise[chosen, :10]
  np.testing.assert_allclose(made, _autoregress(_telling, expected), atol=1e-6)
  np.testing.assert_array_equal(made[0, :7], made[1, :7])
  assert (made[0, 12:] != made[1, 12:]).any()


def test_the_best_go_on():
  np.testing.assert_array_equal(longform.best(np.array([0.0, 3, 1, 3]), keep=1), [1, 1, 1, 1])
  np.testing.assert_array_equal(longform.best(np.array([0.0, 3, 1, 2]), keep=3), [1, 3, 2, 1])
  assert sorted(longform.best(np.arange(4.0), keep=4)) == [0, 1, 2, 3]
