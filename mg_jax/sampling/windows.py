"""Overlapping windows of a latent, with weights that sum to one at every position.

Along each axis windows have one size n, so that there is one program, and start a hop apart; the
last one is moved back inside rather than cut, and an axis shorter than a window is one window. (In
the paper's audio extension the first segment is a hop long and the last one what is left
[MG 6.2].) The windows of a latent are the products of those of its axes [MG 3.1.5].
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.core.typing import Array

Shape = Literal["triangular", "uniform"]
# Triangles end at 0, and at both ends of an axis no other window covers a position.
_FLOOR = 1e-6


def starts(length: int, *, window: int, hop: int) -> np.ndarray:
  """First positions (J,) of the windows along an axis; together they cover it.

  Raises:
    UserError: when hops leave gaps or do not advance.
  """
  if not 1 <= hop <= window:
    raise UserError(f"windows of {window} frames cannot be {hop} frames apart; choose 1..{window}")
  if length <= window:
    return np.zeros(1, np.int64)
  count = 1 + -(-(length - window) // hop)
  return np.minimum(np.arange(count) * hop, length - window)


def weights(
  starts_J: np.ndarray, *, length: int, window: int, shape: Shape = "triangular"
) -> np.ndarray:
  """Weights (J, n) of every window along an axis, n = min(window, length).

  Triangular is the Bartlett window of the paper, whose ends are raised by a millionth.
  """
  n = min(window, length)
  weight_n = np.bartlett(n) + _FLOOR if shape == "triangular" else np.ones(n)
  total_L = np.zeros(length)
  for start in starts_J:
    total_L[start : start + n] += weight_n
  return np.stack([weight_n / total_L[s : s + n] for s in starts_J]).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
  """The windows of a latent (T, H, W).

  Attributes:
    size: (t, h, w) of one.
    starts_J3: their first positions.
    weights: along each axis (J_a, n_a); those of a window are the product.
  """

  size: tuple[int, int, int]
  starts_J3: np.ndarray
  weights: tuple[np.ndarray, np.ndarray, np.ndarray]

  @classmethod
  def of(
    cls, latent: Sequence[int], *, window: Sequence[int], hop: Sequence[int],
    shape: Shape = "triangular",
  ) -> "Windows":
    """The windows of a latent of (T, H, W); arguments as for `starts` and `weights`, by axis."""
    along = [starts(n, window=w, hop=h) for n, w, h in zip(latent, window, hop, strict=True)]
    return cls(
      tuple(min(n, w) for n, w in zip(latent, window, strict=True)),
      np.array(list(itertools.product(*along))),
      tuple(
        weights(s, length=n, window=w, shape=shape)
        for s, n, w in zip(along, latent, window, strict=True)
      ),
    )

  def __len__(self) -> int:
    return len(self.starts_J3)

  def take(self, x_BTHWC: Array, window_w: Array) -> Array:
    """Those windows of a latent, (B, T, H, W, ...) -> (B * w, t, h, w, ...), batch-major."""
    rest = x_BTHWC.shape[4:]

    def one(start):
      begin = (0, *start, *(0,) * len(rest))
      return jax.lax.dynamic_slice(x_BTHWC, begin, (x_BTHWC.shape[0], *self.size, *rest))

    taken = jnp.stack([one(jnp.asarray(self.starts_J3)[j]) for j in window_w], axis=1)
    return taken.reshape(-1, *taken.shape[2:])

  def add(self, out_BTHWC: Array, parts: Array, window_w: Array, valid_w: Array) -> Array:
    """Adds windows (B * w, t, h, w, C), weighted, to a latent; those not `valid` add nothing."""
    parts = parts.reshape(out_BTHWC.shape[0], -1, *parts.shape[1:])
    counts = [len(axis) for axis in self.weights]
    for i, j in enumerate(window_w):
      at = jnp.unravel_index(j, counts)
      t, h, w = (jnp.asarray(axis)[k] for axis, k in zip(self.weights, at, strict=True))
      weight = t[:, None, None] * h[:, None] * w * valid_w[i]
      begin = (0, *jnp.asarray(self.starts_J3)[j], 0)
      held = jax.lax.dynamic_slice(out_BTHWC, begin, (*out_BTHWC.shape[:1], *parts.shape[2:]))
      out_BTHWC = jax.lax.dynamic_update_slice(
        out_BTHWC, held + weight[..., None] * parts[:, i], begin
      )
    return out_BTHWC
