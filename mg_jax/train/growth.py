"""Rules by which a parameter of an earlier stage grows into a larger one [MG 3.1.1, 3.2.2]."""

import math

import numpy as np

from mg_jax.core.errors import UserError


def interpolate(old: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Resamples linearly every axis that differs; old and new cells cover the same extent."""
  _same_rank(old, shape)
  for axis, size in enumerate(shape):
    before = old.shape[axis]
    if before == size:
      continue
    place = np.clip((np.arange(size) + 0.5) * before / size - 0.5, 0, before - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, before - 1)
    weight = (place - low).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    old = np.take(old, low, axis) * (1 - weight) + np.take(old, high, axis) * weight
  return old


def pad_input(old: np.ndarray, shape: tuple[int, ...], *, positions: int = 1) -> np.ndarray:
  """Adds zeros for new input channels behind the old ones.

  Args:
    old: a kernel with the input channels on some axis, or on an axis of (positions * channels)
      where a patch was flattened.
    shape: the new shape, larger on one axis.
    positions: patch positions in that axis.
  """
  _same_rank(old, shape)
  grown = [axis for axis, size in enumerate(shape) if size != old.shape[axis]]
  axis = grown[0]
  before, after = old.shape[axis], shape[axis]
  if len(grown) != 1 or after < before or before % positions or after % positions:
    raise UserError(f"input {old.shape} cannot be padded to {shape} in {positions} positions")
  split = old.reshape(*old.shape[:axis], positions, before // positions, *old.shape[axis + 1 :])
  widths = [(0, 0)] * split.ndim
  widths[axis + 1] = (0, (after - before) // positions)
  return np.pad(split, widths).reshape(shape)


def inflate(old: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Repeats the one axis that grew, which is flattened with time first.

  Inputs of a kernel (in, out) are divided by the repeats, so that the same frame repeated gives
  what the frame alone gave; outputs and biases are not, so that each frame comes out alike.
  """
  _same_rank(old, shape)
  grown = [axis for axis, size in enumerate(shape) if size != old.shape[axis]]
  repeats, rest = divmod(shape[grown[0]], old.shape[grown[0]])
  if len(grown) != 1 or rest:
    raise UserError(f"a parameter of shape {old.shape} cannot be inflated to {shape}")
  tiled = np.concatenate([old] * repeats, axis=grown[0])
  return tiled / repeats if grown[0] < old.ndim - 1 else tiled


def _same_rank(old: np.ndarray, shape: tuple[int, ...]) -> None:
  if old.ndim != len(shape) or math.prod(old.shape) == 0:
    raise UserError(f"a parameter of shape {old.shape} cannot grow to {shape}")
