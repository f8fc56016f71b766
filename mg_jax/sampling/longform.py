"""Sound longer than a window: multi-diffusion and segment-level autoregression [MG 6.2, extension].

Windows all have one length n, so that there is one program, and start n_hop apart; the last one is
moved back inside rather than cut, and a sound shorter than a window is one window. (In the paper
the first segment is n_hop long and the last one what is left.)

States are numpy arrays (N, L, C): candidates, latent frames of the whole, channels. The network
only ever sees windows, a few at a time, through a `Velocity`.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.losses import flow
from mg_jax.sampling.solvers import advance

# Of a window's weights: triangles end at 0, and at both ends of a sound no other window helps.
_FLOOR = 1e-6


# The guided network on a few windows: their states (R, n, C) and contexts (R, n, C), which windows
# they are, and the time -> dx/dt (R, n, C).
Velocity = Callable[[np.ndarray, np.ndarray, tuple[int, ...], Any], np.ndarray]


class Known:
  """Frames that are given: what the network gets of them, and where the path holds them.

  Args:
    latents_LC: normalised, zero where nothing is known; the context of every window.
    mask_L: bool, True where known.
  """

  def __init__(self, latents_LC: np.ndarray, mask_L: np.ndarray):
    self.mask_L = np.asarray(mask_L, bool)
    self.latents_LC = np.where(self.mask_L[:, None], latents_LC, 0).astype(np.float32)

  def pin(
    self, x_NnC: np.ndarray, noise_NnC: np.ndarray, t: Any, frames: slice = slice(None)
  ) -> np.ndarray:
    """x with its known frames where the path from their noise has them at time t.

    As in training, where frames of the context have the noise of their time like all others.
    """
    mask_n = self.mask_L[frames]
    if not mask_n.any():
      return x_NnC
    path = flow.SIGMA_MIN * t * noise_NnC + (1 - t) * noise_NnC + t * self.latents_LC[frames]
    return np.where(mask_n[:, None], path.astype(np.float32), x_NnC)


def starts(length: int, *, window: int, hop: int) -> np.ndarray:
  """First frames (J,) of the windows of a sound; together they cover it.

  Raises:
    UserError: when hops leave gaps or go nowhere.
  """
  if not 1 <= hop <= window:
    raise UserError(f"windows of {window} frames cannot be {hop} frames apart; choose 1..{window}")
  if length <= window:
    return np.zeros(1, np.int64)
  count = 1 + -(-(length - window) // hop)
  return np.minimum(np.arange(count) * hop, length - window)


def masks(
  starts_J: np.ndarray,
  *,
  length: int,
  window: int,
  shape: Literal["triangular", "uniform"] = "triangular",
) -> np.ndarray:
  """Weights (J, n) of every window, n = min(window, length), which sum to one on every frame.

  Triangular is the Bartlett window of the paper, whose ends are raised by a millionth.
  """
  n = min(window, length)
  weight_n = np.bartlett(n) + _FLOOR if shape == "triangular" else np.ones(n)
  total_L = np.zeros(length)
  for start in starts_J:
    total_L[start : start + n] += weight_n
  return np.stack([weight_n / total_L[s : s + n] for s in starts_J]).astype(np.float32)


def multi_diffusion(
  velocity: Velocity,
  noise_NLC: np.ndarray,
  known: Known,
  *,
  starts_J: np.ndarray,
  masks_Jn: np.ndarray,
  times: np.ndarray,
  method: str,
  rows: int,
) -> np.ndarray:
  """All windows of one joint state, step by step; the whole at times[-1], (N, L, C).

  Windows start a step from the same state, so merging the states that they reach is merging their
  velocities: this is the solver on the field sum_j m_j v_j. The half step of "midpoint" is merged
  too, which keeps its second order; every window would otherwise leave from a state of its own.

  Args:
    velocity: of windows.
    noise_NLC: state at times[0].
    known: frames that follow their path.
    starts_J: as `starts` gives them; one window is plain sampling.
    masks_Jn: as `masks` gives them.
    times: of the solver.
    method: of the solver.
    rows: windows for one call of `velocity`.
  """
  window = masks_Jn.shape[1]
  # Windows of which everything is known have nothing to say.
  active = [j for j, s in enumerate(starts_J) if not known.mask_L[s : s + window].all()]
  jobs = [(k, j) for j in active for k in range(len(noise_NLC))]

  def field(x_NLC: np.ndarray, t: Any) -> np.ndarray:
    x_NLC = known.pin(x_NLC, noise_NLC, t)
    out_NLC = np.zeros_like(x_NLC)
    for group in _groups(jobs, rows):
      frames = [slice(starts_J[j], starts_J[j] + window) for _, j in group]
      x_RnC = np.stack([x_NLC[k, part] for (k, _), part in zip(group, frames, strict=True)])
      context_RnC = np.stack([known.latents_LC[part] for part in frames])
      v_RnC = velocity(x_RnC, context_RnC, tuple(j for _, j in group), t)
      for (k, j), part, v_nC in zip(group, frames, v_RnC, strict=True):
        out_NLC[k, part] += masks_Jn[j][:, None] * v_nC
    return out_NLC

  x_NLC = noise_NLC
  for start, end in _intervals(times):
    x_NLC = advance(field, x_NLC, start, end, method=method)
  return known.pin(x_NLC, noise_NLC, times[-1])


def autoregression(
  velocity: Velocity,
  noise_NLC: np.ndarray,
  known: Known,
  *,
  starts_J: np.ndarray,
  window: int,
  times: np.ndarray,
  method: str,
  rows: int,
  select: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> np.ndarray:
  """Window after window, each solved to the end; the whole at times[-1], (N, L, C).

  A window knows the one before it in two ways. Its context holds the frames that both have, as they
  ended. And after every step those frames are mixed with where they were at that time in the window
  before, x_n <- w_n x_n + (1 - w_n) old_n with w_n = n / n_ctx: the first of them stay old, the
  last are almost free. What both windows have is taken from the later one.

  Args:
    velocity, noise_NLC, known, starts_J, times, method, rows: as for `multi_diffusion`.
    window: frames of one, more than the whole has if there is only one.
    select: beam search: (candidates (N, n, C) of a window, its index) -> which of them, (N,), go
      on in each place, with the past and the noise of it; None lets every one go on.
  """
  length = noise_NLC.shape[1]
  window = min(window, length)
  noise_NLC, made_NLC = noise_NLC.copy(), np.zeros_like(noise_NLC)
  done, trail = 0, []  # states of the frames that the next window shares, after every step
  for j, first in enumerate(starts_J.tolist()):
    part = slice(first, first + window)
    shared = done - first
    coming = starts_J[j + 1] - first if j + 1 < len(starts_J) else window
    noise_NnC = noise_NLC[:, part]
    solved_n = ~known.mask_L[part] & (np.arange(first, first + window) < done)
    context_NnC = np.where(solved_n[:, None], made_NLC[:, part], known.latents_LC[part])
    field = _segment_field(velocity, known, noise_NnC, context_NnC, part, j, rows)
    weight_n = (np.arange(shared, dtype=np.float32) / max(shared, 1))[:, None]
    x_NnC, states = noise_NnC, []
    for i, (start, end) in enumerate(_intervals(times)):
      x_NnC = advance(field, x_NnC, start, end, method=method)
      if shared:
        mixed = weight_n * x_NnC[:, :shared] + (1 - weight_n) * trail[i]
        x_NnC = np.concatenate([mixed, x_NnC[:, shared:]], axis=1)
      x_NnC = known.pin(x_NnC, noise_NnC, end, part)
      states.append(x_NnC[:, coming:].copy())
    made_NLC[:, part] = x_NnC
    done, trail = first + window, states
    if select is not None:
      parents_N = select(x_NnC, j)
      made_NLC, trail = made_NLC[parents_N], [state[parents_N] for state in trail]
      noise_NLC[:, :done] = noise_NLC[parents_N, :done]
  return made_NLC


def _segment_field(velocity, known, noise_NnC, context_NnC, part, j, rows):
  """The field of all candidates of one window."""

  def field(x_NnC: np.ndarray, t: Any) -> np.ndarray:
    if known.mask_L[part].all():
      return np.zeros_like(x_NnC)
    x_NnC = known.pin(x_NnC, noise_NnC, t, part)
    groups = _groups(range(len(x_NnC)), rows)
    return np.concatenate([velocity(x_NnC[g], context_NnC[g], (j,) * len(g), t) for g in groups])

  return field


def best(scores_N: np.ndarray, *, keep: int) -> np.ndarray:
  """Which candidates (N,) go on where: the best `keep` of them in turn, those before them first."""
  order = np.argsort(-np.asarray(scores_N), kind="stable")[:keep]
  return order[np.arange(len(scores_N)) % keep]


def _groups(jobs: Iterable[Any], rows: int) -> Iterator[list[Any]]:
  jobs = list(jobs)
  for i in range(0, len(jobs), rows):
    yield jobs[i : i + rows]


def _intervals(times: np.ndarray) -> Iterator[tuple[np.float32, np.float32]]:
  times = np.asarray(times, np.float32)
  return zip(times[:-1], times[1:], strict=True)
