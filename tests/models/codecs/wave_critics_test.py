"""Critics of sound: DAC's sizes, level and offset, what each sees, and configs that make none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import spec_table, unbox
from mg_jax.core.tree import count_params
from mg_jax.models.codecs.wave_critics import BANDS, WaveCritics

SMALL = WaveCritics(periods=(3,), period_widths=(2, 4), windows=(32,), spectrum_width=2)


def wave_of(samples, batch=2, seed=0):
  return np.random.default_rng(seed).uniform(-0.5, 0.5, (batch, samples)).astype(np.float32)


@pytest.fixture(scope="module")
def params(awaken):
  wave = jax.ShapeDtypeStruct((1, 240), jnp.float32)
  return awaken(jax.eval_shape(SMALL.init, jax.random.key(0), wave)["params"])


@pytest.fixture(scope="module")
def judge(params):
  run = jax.jit(lambda wave: SMALL.apply({"params": params}, wave))
  return lambda wave: run(jnp.asarray(wave, jnp.float32))


def test_the_sizes_are_those_of_dac():
  shapes = unbox(jax.eval_shape(WaveCritics().init, jax.random.key(0), jnp.zeros((1, 4800))))
  shapes = shapes["params"]
  widths = (1, 32, 128, 512, 1024, 1024)
  period = sum(5 * a * b + b for a, b in zip(widths, widths[1:], strict=False)) + 3 * 1024 + 1
  band = 27 * 2 * 32 + 32 + 3 * (27 * 32 * 32 + 32) + 9 * 32 * 32 + 32
  window = 5 * band + 9 * 32 + 1
  assert {name: count_params(tree) for name, tree in shapes.items()} == {
    **{f"period{p}": period for p in (2, 3, 5, 7, 11)},
    **{f"window{w}": window for w in (2048, 1024, 512)},
  }


def test_shapes_of_judgements(judge):
  (period, columns), (spectrum, bands) = judge(wave_of(241))
  # 81 rows of 3 columns, of which the first convolution keeps every third row.
  assert [f.shape for f in columns] == [(2, 27, 3, 2), (2, 27, 3, 4)]
  assert period.shape == (2, 27, 3, 1) and period.dtype == jnp.float32
  assert len(bands) == 5 * len(BANDS) and spectrum.shape[1] == 1 + 241 // 8
  assert spectrum.shape[2] == sum(f.shape[2] for f in bands[4::5])


def test_level_and_offset_are_not_judged_but_the_sign_is(judge):
  wave = wave_of(240)
  want = jax.tree.leaves(judge(wave))
  for other in (0.1 * wave, wave + 0.25):
    for a, b in zip(jax.tree.leaves(judge(other)), want, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-3)
  assert not np.allclose(judge(-wave)[0][0], want[0], atol=1e-3)


def test_silence_is_judged_without_nan(judge):
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(judge(np.zeros((1, 240)))))


def test_columns_of_a_period_do_not_meet(judge):
  """Changing every third sample, without mean and peak, changes one column of three."""
  wave = wave_of(240)
  wave[:, :3] = [[1.0, -1.0, 0.0]]  # holds the peak
  wave[:, 2::3] -= wave[:, 2::3].mean(axis=1, keepdims=True)
  wave -= 0
  other = wave.copy()
  other[:, 8::3] = other[:, 8::3][:, ::-1]  # the same mean
  a, b = (judge(x)[0][1][-1] for x in (wave, other))
  np.testing.assert_allclose(a[:, :, :2], b[:, :, :2], atol=1e-4)
  assert not np.allclose(a[:, :, 2], b[:, :, 2], atol=1e-3)


def test_kernels_are_spread(params):
  table = spec_table(
    jax.eval_shape(SMALL.init, jax.random.key(0), jnp.zeros((1, 240)))["params"]
  )
  kernels = [line for line in table if "kernel" in line]
  assert len(kernels) == 2 + 1 + 25 + 1 and all("fsdp" in line for line in kernels)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"periods": (), "windows": ()}, "both empty"),
    ({"periods": (0,)}, "are invalid"),
    ({"period_widths": ()}, "are invalid"),
    ({"windows": (30,)}, "multiples of 4"),
    ({"windows": (8,)}, "has no bins"),
    ({"bands": ((0.5, 1.5),)}, "within 0 and 1"),
  ],
)
def test_configs_that_make_no_critic_are_told(fields, message):
  with pytest.raises(UserError, match=message):
    jax.eval_shape(SMALL.clone(**fields).init, jax.random.key(0), jnp.zeros((1, 240)))
