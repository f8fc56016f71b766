"""How candidates for a sound are scored, of which the best is kept [MG 6.2].

A scorer gets `pair`, which gives the velocities of windows without and with their conditions, and
latents (N, L, C), normalised; it gives a score for each candidate, the higher the better. The
paper does not say what ranks its eight candidates; here it is `fit`, and `Soundtrack.scorer` takes
another. A single candidate is not scored: as noise depends on the number of a candidate alone,
`candidates=1` gives the first one of any number.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from mg_jax.losses import flow
from mg_jax.sampling.longform import Known

TIMES = (0.3, 0.5, 0.7, 0.9)
_CALL = 8  # windows of a call


@runtime_checkable
class Scorer(Protocol):
  """Scores (N,) of candidates.

  Args:
    pair: (x (R, n, C), contexts, window numbers, t) -> velocities without and with conditions.
    latents_NLC: the candidates, or those of a single window.
    known: what is given of the whole sound.
    starts_J: first latents of the windows in the whole sound.
    window: latents of one.
    first: number of the first of these windows.
    seed: of the request.
  """

  def __call__(
    self, pair: Callable, latents_NLC: np.ndarray, *, known: Known, starts_J: np.ndarray,
    window: int, seed: int, first: int = 0,
  ) -> np.ndarray: ...


def fit(
  pair: Callable, latents_NLC: np.ndarray, *, known: Known, starts_J: np.ndarray, window: int,
  seed: int, first: int = 0,
) -> np.ndarray:
  """How much the conditions explain a sound, by the model itself.

  The mean, over fixed times and noises, of its flow-matching loss without conditions less that with
  them: an estimate of the information that sound and conditions share. It needs no other network.
  """
  base = int(starts_J[0]) if first else 0
  noise_nC = np.random.default_rng(seed).standard_normal((window, latents_NLC.shape[2]))
  noise_nC = noise_nC.astype(np.float32)
  jobs = [(k, j) for k in range(len(latents_NLC)) for j in range(len(starts_J))]
  gains = np.zeros(len(latents_NLC))
  for t in TIMES:
    for i in range(0, len(jobs), _CALL):
      group = jobs[i : i + _CALL]
      begins = [int(starts_J[j]) for _, j in group]
      x1 = np.stack([
        latents_NLC[k, b - base : b - base + window]
        for (k, _), b in zip(group, begins, strict=True)
      ])  # fmt: skip
      context = np.stack([known.latents_LC[b : b + window] for b in begins])
      x_t = flow.SIGMA_MIN * t * noise_nC + (1 - t) * noise_nC + t * x1
      target = x1 - (1 - flow.SIGMA_MIN) * noise_nC
      null, full = pair(
        x_t.astype(np.float32), context, tuple(first + j for _, j in group), np.float32(t)
      )
      gain = np.mean(np.square(null - target) - np.square(full - target), axis=(1, 2))
      for (k, _), value in zip(group, gain, strict=True):
        gains[k] += value / (len(TIMES) * len(starts_J))
  return gains
