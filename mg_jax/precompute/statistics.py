"""Statistics of an autoencoder's latents on held-out data during training.

Written next to the checkpoints as `<workdir>/latent_statistics.json`: mean and standard deviation
per channel, by which a generator normalises if it does not precompute latents of its own data; the
outlier rate [MG 3.1.1]; and a histogram of distances of positions from the mean of their frame, in
multiples of |Std|. For sound, the latents of a chunk count as the positions of one frame.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mg_jax.core.mesh import use_mesh
from mg_jax.core.typing import PyTree
from mg_jax.data import atomic
from mg_jax.data.moments import Moments
from mg_jax.losses.reconstruction import OUTLIER_RADIUS, radii
from mg_jax.objectives.autoencoding import Autoencoding
from mg_jax.objectives.wave_autoencoding import WaveAutoencoding
from mg_jax.train.feed import place_batch
from mg_jax.train.state import TrainState
from mg_jax.train.workdir import is_remote, resolve

FILE = "latent_statistics.json"
EDGES = tuple(0.25 * i for i in range(33))  # of the histogram, 0 to 8; the last bin is open


class LatentStatistics:
  """Measures statistics over the held-out batches; a hook of the loop."""

  def __init__(
    self,
    objective: Autoencoding | WaveAutoencoding,
    batches: Callable[[], Iterable[Mapping[str, Any]]],
    workdir: str,
    mesh: Mesh,
  ):
    """`batches` starts a pass over numpy batches, as in an evaluation."""
    self._batches, self._workdir, self._mesh = batches, workdir, mesh

    def part(params: Mapping[str, PyTree], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
      latent = objective.encode(params, batch)[1]
      if latent.ndim == 3:
        latent = latent[:, None, :, None]
      valid = jnp.asarray(batch.get("valid", jnp.ones(len(latent))), jnp.float32)
      weight = jnp.broadcast_to(valid[:, None, None, None], latent.shape[:-1])
      count = jnp.sum(weight)
      mean = jnp.einsum("bthwc,bthw->c", latent, weight) / count
      distance, std = radii(latent)
      ratio = distance / std
      bins = jnp.searchsorted(jnp.asarray(EDGES), ratio, side="right") - 1
      return {
        "count": count,
        "mean": mean,
        "squares": jnp.einsum("bthwc,bthw->c", jnp.square(latent - mean), weight),
        "outliers": jnp.sum(weight * (ratio > OUTLIER_RADIUS)),
        "furthest": jnp.max(weight * ratio),
        "histogram": jnp.zeros(len(EDGES)).at[bins].add(weight),
      }

    self._part = jax.jit(part)

  def __call__(self, state: TrainState, step: int) -> None:
    """Writes the file for the averaged weights of a step."""
    measured = self.measure(state.averaged())
    if jax.process_index() != 0:
      return
    folder, measured = resolve(self._workdir), {"step": step} | measured
    if is_remote(folder):
      # Objects are written atomically.
      (folder / FILE).write_text(json.dumps(measured))
    else:
      atomic.write_json(folder / FILE, measured)

  def measure(self, params: Mapping[str, PyTree]) -> dict[str, Any]:
    """Mean and std per channel, the outlier rate, and the histogram of distances with its edges."""
    moments = Moments()
    outliers, furthest, histogram = 0.0, 0.0, np.zeros(len(EDGES))
    for batch in self._batches():
      with use_mesh(self._mesh):
        part = jax.device_get(self._part(params, place_batch(batch, self._mesh, whole=True)))
      part = {name: np.asarray(value, np.float64) for name, value in part.items()}
      moments.merge(Moments(part["count"], part["mean"], part["squares"]))
      outliers += part["outliers"]
      furthest = max(furthest, float(part["furthest"]))
      histogram += part["histogram"]
    return {
      "mean": moments.mean.tolist(),
      "std": moments.std.tolist(),
      "outlier_rate": float(outliers / moments.count),
      "furthest": furthest,
      "histogram": {"from": list(EDGES), "count": [round(n) for n in histogram]},
    }
