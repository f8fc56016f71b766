"""How candidates for a sound are scored, of which the best is kept [MG 6.2].

A scorer is traced together with the sampler. It gets `pair`, which gives the velocities of windows
without and with their conditions, and candidates (N, L, 1, 1, C), normalised; it gives a score for
each, the higher the better. The paper does not say what ranks its eight candidates; here it is
`fit`, and `Soundtrack.scorer` takes another. A single candidate is not scored: as noise depends on
the number of a candidate alone, `candidates=1` gives the first one of any number.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.rng import stream
from mg_jax.core.typing import Array
from mg_jax.losses import flow
from mg_jax.sampling.sampler import Beside
from mg_jax.sampling.windows import Windows

TIMES = (0.3, 0.5, 0.7, 0.9)


@runtime_checkable
class Scorer(Protocol):
  """Scores (N,) of candidates.

  Args:
    pair: arguments of a `sampler.Field` -> velocities without and with conditions.
    latents: the candidates, or one window of them.
    beside: what the field reads beside them.
    windows: those of the latents.
    seed: of the request, uint32.
  """

  def __call__(
    self, pair: Callable, latents: Array, *, beside: Beside, windows: Windows, seed: Array
  ) -> Array | np.ndarray: ...


def fit(
  pair: Callable, latents: Array, *, beside: Beside, windows: Windows, seed: Array
) -> Array:
  """How much the conditions explain a sound, by the model itself.

  The mean, over fixed times and noises, of its flow-matching loss without conditions less that with
  them: an estimate of the information that sound and conditions share. It needs no other network.
  """
  count = len(latents)
  noise = jax.random.normal(
    stream(jax.random.key(seed), "score"), (1, *windows.size, latents.shape[-1])
  )

  def gain(job: tuple[Array, Array]) -> Array:
    t, j = job
    x1, taken = windows.take(latents, j[None]), {}
    for name, array in beside.items():
      part = windows.take(array, j[None])
      taken[name] = jnp.broadcast_to(part, (count, *part.shape[1:]))
    x0 = jnp.broadcast_to(noise, x1.shape)
    target = flow.velocity(x0, x1)
    x_t = flow.interpolate(x0, x1, jnp.full(count, t))
    null, full = pair(x_t, t, jnp.full(count, j), taken)
    return jnp.mean(jnp.square(null - target) - jnp.square(full - target), axis=(1, 2, 3, 4))

  times, numbers = np.meshgrid(np.float32(TIMES), np.arange(len(windows)), indexing="ij")
  return jnp.mean(jax.lax.map(gain, (times.ravel(), numbers.ravel())), axis=0)
