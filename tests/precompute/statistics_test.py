"""Latent statistics against numpy over all latents at once."""

import json
from types import SimpleNamespace

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import random

from mg_jax.core.mesh import make_mesh
from mg_jax.objectives.autoencoding import Autoencoding
from mg_jax.precompute.statistics import EDGES, FILE, LatentStatistics
from mg_jax.train.optim import OptimConfig, build_optimizers
from mg_jax.train.state import wrap_params


class Pixels(nn.Module):
  """Its latents are the pixels, far from zero."""

  shortcut: bool = False

  @nn.compact
  def encode(self, video):
    scale = self.param("scale", nn.initializers.ones, (3,))
    return scale * video + 100.0, jnp.zeros_like(video)

  def __call__(self, video):
    return self.encode(video)[0]


def _batches():
  rng = np.random.default_rng(0)
  for frames, valid in ((3, [True, True, True, False]), (1, [True, False, False, False])):
    video = rng.integers(100, 140, (4, frames, 8, 8, 3)).astype(np.uint8)
    video[0, 0, 3, 5] = 255  # one spot; in rows that do not count there are many
    video[3, :, ::4, ::4] = 255
    yield {"video": video, "valid": np.array(valid)}


def test_all_valid_latents_count_once(tmp_path):
  objective = Autoencoding(Pixels())
  params = objective.init(random.key(0), next(_batches()))
  hook = LatentStatistics(objective, _batches, str(tmp_path), make_mesh((1, 1, 1, 1)))
  optimizers = build_optimizers(OptimConfig(), objective.roles)
  assert hook(wrap_params(params, optimizers, ema=False, window=0), 7) is None
  found = json.loads((tmp_path / FILE).read_text())

  clips = [clip for b in _batches() for clip in b["video"][b["valid"]]]
  frames = np.concatenate(clips).astype(np.float64) / 127.5 - 1 + 100
  np.testing.assert_allclose(found["mean"], frames.mean((0, 1, 2)), rtol=1e-6)
  np.testing.assert_allclose(found["std"], frames.std((0, 1, 2)), rtol=1e-3)
  centred = frames - frames.mean((1, 2), keepdims=True)
  ratio = np.linalg.norm(centred, axis=-1)
  ratio /= np.linalg.norm(frames.std((1, 2)), axis=-1)[:, None, None]
  positions = 10 * 64
  assert found["outlier_rate"] == (ratio > 3).sum() / positions == 2 / positions
  np.testing.assert_allclose(found["furthest"], ratio.max(), rtol=1e-3)
  counts, _ = np.histogram(ratio, [*EDGES, np.inf])
  assert found["step"] == 7 and sum(found["histogram"]["count"]) == positions
  # A position on an edge may fall on either side of it.
  assert np.abs(counts - found["histogram"]["count"]).sum() <= 4


class Samples(nn.Module):
  """Its latents are samples in twos, far from zero."""

  sample_rate: int = 8

  @nn.compact
  def encode(self, wave):
    scale = self.param("scale", nn.initializers.ones, ())
    mean = scale * wave.reshape(len(wave), -1, 2) + 5.0
    return mean, jnp.zeros_like(mean)

  def __call__(self, wave):
    return self.encode(wave)[0]


def test_latents_of_sound_are_measured_by_channel(tmp_path):
  rng = np.random.default_rng(0)
  batch = {
    "wave": rng.integers(-9000, 9000, (3, 64)).astype(np.int16), "valid": np.array([1, 1, 0], bool)
  }  # fmt: skip
  objective = SimpleNamespace(
    encode=lambda params, batch: (
      None, *Samples().apply({"params": params}, batch["wave"] / 2**15, method="encode")
    )
  )  # fmt: skip
  hook = LatentStatistics(objective, lambda: [batch], str(tmp_path), make_mesh((1, 1, 1, 1)))
  found = hook.measure({"scale": jnp.float32(1.0)})
  latents = batch["wave"][:2].reshape(-1, 2) / 2**15 + 5
  np.testing.assert_allclose(found["mean"], latents.mean(0), rtol=1e-6)
  np.testing.assert_allclose(found["std"], latents.std(0), rtol=1e-3)
  assert sum(found["histogram"]["count"]) == 64 and 0 <= found["outlier_rate"] < 0.1
