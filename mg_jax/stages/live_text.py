"""Frozen text encoders that run in every step, where their features are not cached."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from mg_jax.models.encoders.streams import Streams


def live_text(text: Streams, mesh: Mesh) -> Callable[[Any], Any] | None:
  """Encodes the streams of a batch, between the feed and the step; None where all are cached."""
  live = tuple(name for name in text.frozen if name not in text.cached)
  return _FrozenText(text.load(mesh, names=live)) if live else None


class _FrozenText:
  def __init__(self, text: Streams):
    self._params, self._run = text.params, jax.jit(text.encode)

  def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    return self._run(self._params, batch)
