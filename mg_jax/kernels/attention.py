"""Attention by the best kernel for the hardware, without causal mask. [MG 3.1.3]

q_BLNK, k_BSNK, v_BSNK and an optional mask_BS over keys give o_BLNK; self-attention and
cross-attention are the same call. Every platform has an ordered list of candidates, the reference
last. The first that supports the call runs; the choice and the rejected candidates are logged once.
A kernel requested by name never falls back to another.

To add a kernel: write its file, then name it in `_ORDER`.
"""

import dataclasses
import functools
import logging
import threading
from collections.abc import Callable

from mg_jax.core.typing import Array, Bool, Float
from mg_jax.kernels import context, cudnn, splash, xla
from mg_jax.kernels.platform import current, platform
from mg_jax.kernels.ring import ring as ring_of_blocked

__all__ = ["Candidate", "attend", "candidates", "choose", "platform"]

_log = logging.getLogger(__name__)
_reported: set[str] = set()
_lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One attention kernel.

  Attributes:
    name: the value of `attend(kernel=...)`.
    supports: (q_shape, k_shape, dtype, masked, platform) -> None, or the reason why not.
    run: (q_BLNK, k_BSNK, v_BSNK, *, mask_BS, scale) -> o_BLNK on one device.
    ring: the same for keys that travel along mesh axes, `axis`; None if it returns no log-sum-exp
      to merge results by.
  """

  name: str
  supports: Callable[[tuple[int, ...], tuple[int, ...], object, bool, str], str | None]
  run: Callable[..., Array]
  ring: Callable[..., Array] | None = None


def _anything(q_shape, k_shape, dtype, masked, platform) -> None:
  return None


_REFERENCE = Candidate("reference", _anything, xla.reference)
_BLOCKED = Candidate("blocked", _anything, xla.blocked, ring_of_blocked)

_SPLASH = Candidate("splash", splash.unsupported, splash.splash)
_CUDNN = Candidate("cudnn", cudnn.unsupported, cudnn.cudnn)

# The blocked kernel comes first where there is no fused one: its memory does not grow with L * S.
_ORDER: dict[str, tuple[Candidate, ...]] = {
  "tpu": (_SPLASH, _BLOCKED, _REFERENCE),
  "cuda": (_CUDNN, _BLOCKED, _REFERENCE),
  "cpu": (_BLOCKED, _REFERENCE),
}


def candidates(platform: str) -> tuple[Candidate, ...]:
  """The kernels of a platform, best first."""
  return _ORDER.get(platform, (_REFERENCE,))


def _report(line: str) -> None:
  with _lock:
    if line in _reported:
      return
    _reported.add(line)
  _log.info(line)


def choose(
  kernel: str, q_shape, k_shape, *, dtype, masked: bool, platform: str, ring: bool = False
) -> Candidate:
  """The candidate that `attend` runs for these shapes; `ring` if keys travel along a ring.

  Raises:
    ValueError: if `kernel` is unknown on this platform, or does not support the call.
  """
  order = candidates(platform)
  rejected = []
  for candidate in order:
    if kernel not in ("auto", candidate.name):
      continue
    reason = candidate.supports(tuple(q_shape), tuple(k_shape), dtype, masked, platform)
    if ring and candidate.ring is None:
      reason = "it cannot merge the results of a ring"
    if reason is None:
      passed = f" (rejected {'; '.join(rejected)})" if rejected else ""
      _report(f"attention uses the kernel {candidate.name!r} on {platform}{passed}")
      return candidate
    if kernel != "auto":
      raise ValueError(f"attention kernel {kernel!r} cannot run this call: {reason}")
    rejected.append(f"{candidate.name}: {reason}")
  known = ", ".join(c.name for c in order)
  if rejected:
    raise ValueError(f"no attention kernel on {platform} supports this call: {'; '.join(rejected)}")
  raise ValueError(f"unknown attention kernel {kernel!r}; {platform} knows auto, {known}")


def _check(q_shape, k_shape, v_shape, mask_shape) -> None:
  fits = len(q_shape) == len(k_shape) == 4 and tuple(k_shape) == tuple(v_shape)
  if not fits or q_shape[0] != k_shape[0] or q_shape[2:] != k_shape[2:]:
    raise ValueError(f"attention takes q_BLNK, k_BSNK, v_BSNK, got {q_shape}, {k_shape}, {v_shape}")
  if mask_shape is not None and tuple(mask_shape) != tuple(k_shape[:2]):
    raise ValueError(f"attention mask is (B, S) = {tuple(k_shape[:2])}, got {tuple(mask_shape)}")


def _local(q, k, v, *, mask_BS, scale, ring, kernel, platform):
  chosen = choose(
    kernel, q.shape, k.shape, dtype=q.dtype, masked=mask_BS is not None, platform=platform,
    ring=ring is not None,
  )  # fmt: skip
  if ring is not None:
    return chosen.ring(q, k, v, mask_BS=mask_BS, scale=scale, axis=ring)
  return chosen.run(q, k, v, mask_BS=mask_BS, scale=scale)


def attend(
  q_BLNK: Float[Array, "B L N K"],
  k_BSNK: Float[Array, "B S N K"],
  v_BSNK: Float[Array, "B S N K"],
  *,
  mask_BS: Bool[Array, "B S"] | None = None,
  scale: float | None = None,
  kernel: str = "auto",
  context_parallel: context.Scheme = "gather",
) -> Float[Array, "B L N K"]:
  """Softmax attention of every query to every unmasked key, split over the mesh in use.

  Args:
    q_BLNK: queries; the result has their dtype.
    k_BSNK: keys.
    v_BSNK: values.
    mask_BS: True marks real keys. A query without any gets zeros.
    scale: multiplies the scores; None is K ** -0.5.
    kernel: "auto", or the name of a candidate of the platform.
    context_parallel: how attention runs over tokens split across devices, see `kernels.context`.

  Raises:
    UserError: on heads or tokens that the scheme of `context_parallel` cannot split.
    ValueError: on mismatched shapes, on an unknown kernel, and if the named
      kernel does not support the call.
  """
  _check(q_BLNK.shape, k_BSNK.shape, v_BSNK.shape, None if mask_BS is None else mask_BS.shape)
  scale = q_BLNK.shape[-1] ** -0.5 if scale is None else scale
  local = functools.partial(_local, kernel=kernel, platform=current())
  return context.parallel(local, context_parallel)(
    q_BLNK, k_BSNK, v_BSNK, mask_BS=mask_BS, scale=scale
  )
