"""Patch discriminators: the published layout, images and clips, independence of rows, sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import spec_table, unbox
from mg_jax.core.tree import count_params
from mg_jax.models.codecs.discriminators import PatchDiscriminator

SMALL = {"channels": 8, "multipliers": (1, 2, 4), "groups": 4}


def video_of(frames, *, size=24, batch=2, seed=1):
  shape = (batch, frames, size, size, 3)
  return jax.random.uniform(jax.random.key(seed), shape, minval=-1.0, maxval=1.0)


def run(video, **fields):
  model = PatchDiscriminator(**SMALL | fields)
  params = jax.jit(model.init)(jax.random.key(0), video)
  return model, unbox(params), jax.jit(model.apply)


def test_the_published_layout():
  model = PatchDiscriminator()
  shape = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1, 256, 256, 3)))["params"]
  shape = unbox(shape)
  kernels = {name: p["kernel"].shape for name, p in shape.items() if "kernel" in p}
  assert sorted(kernels.values()) == [
    (4, 4, 3, 64), (4, 4, 64, 128), (4, 4, 128, 256), (4, 4, 256, 512), (4, 4, 512, 1)
  ]  # fmt: skip
  # Kernels, scales and offsets of the norms, and a bias in each convolution.
  widths = 128 + 256 + 512
  products = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
  assert count_params(shape) == products + 2 * widths + (64 + widths + 1)
  logits = jax.eval_shape(model.apply, {"params": shape}, jnp.zeros((2, 3, 256, 256, 3)))
  assert logits.shape == (2, 3, 30, 30)


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("temporal", [False, True])
def test_images_and_clips_are_accepted(frames, temporal):
  model, params, apply = run(video_of(5), temporal=temporal)
  logits = apply(params, video_of(frames))
  assert model.frame_stride == (4 if temporal else 1)
  assert logits.shape == (2, -(-frames // model.frame_stride), 4, 4)
  assert jnp.all(jnp.isfinite(logits)) and jnp.std(logits) > 0


def test_a_frame_is_judged_alone_and_a_clip_is_not():
  video = video_of(4)
  other = video.at[:, 1:].set(video_of(3, seed=7))
  for temporal, alike in ((False, True), (True, False)):
    _, params, apply = run(video, temporal=temporal)
    # Time starts as the identity: give its kernels some weight.
    params = jax.tree.map(lambda x: x + 0.05, params)
    first, second = (apply(params, v)[:, 0] for v in (video, other))
    assert np.allclose(first, second, atol=1e-6) == alike


def test_rows_do_not_depend_on_each_other():
  video = video_of(2)
  _, params, apply = run(video)
  alone = apply(params, video[:1])
  np.testing.assert_allclose(apply(params, video)[:1], alone, atol=1e-5)


def test_a_two_dimensional_one_continues_as_a_temporal_one():
  still = jnp.repeat(video_of(1), 4, axis=1)
  _, flat, apply = run(still)
  _, params, over_time = run(still, temporal=True)
  params = {"params": params["params"] | flat["params"]}
  np.testing.assert_allclose(over_time(params, still), apply(flat, still)[:, :1], atol=1e-5)


def test_parameters_have_names_that_shard():
  model = PatchDiscriminator(**SMALL, temporal=True)
  table = spec_table(jax.eval_shape(model.init, jax.random.key(0), video_of(1))["params"])
  spread = [line for line in table if "kernel" in line and "fsdp" in line]
  assert len(spread) == 7, table


def test_frames_that_are_too_small_are_refused():
  with pytest.raises(UserError, match="at least 12 pixels per side, not 8"):
    run(video_of(1, size=8))
