"""Retrieval: how often an image retrieves its caption among all, and a caption its image.

In: features (N, E) of images and of their captions in one space, batch by batch, and the captions
themselves. Out: recall at 1 in both directions with its Wilson 95 % interval. Chance is 1 / N.
Equal captions cannot be told apart, so each counts as right for every image that has it.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from mg_jax.metrics.scores import Rate, wilson

_ROWS = 1024  # rows scored at a time: the whole similarity matrix may not fit


class Retrieval:
  """Streaming accumulator over a whole set; memory grows with its features only."""

  def __init__(self) -> None:
    self._image: list[np.ndarray] = []
    self._text: list[np.ndarray] = []
    self._captions: list[Hashable] = []

  def add(self, image_NE: np.ndarray, text_NE: np.ndarray, captions: Sequence[Hashable]) -> None:
    """Adds pairs; features are compared by direction only.

    Raises:
      ValueError: if the numbers of images, texts and captions differ.
    """
    if not len(image_NE) == len(text_NE) == len(captions):
      raise ValueError(f"{len(image_NE)} images, {len(text_NE)} texts, {len(captions)} captions")
    self._image.append(_unit(image_NE))
    self._text.append(_unit(text_NE))
    self._captions.extend(captions)

  def __len__(self) -> int:
    return len(self._captions)

  @property
  def duplicates(self) -> int:
    """Captions that repeat an earlier one."""
    return len(self._captions) - len(set(self._captions))

  def compute(self) -> dict[str, Rate]:
    """Recall at 1: "image_to_text" and "text_to_image"."""
    if not self._captions:
      return {name: wilson(0, 0) for name in ("image_to_text", "text_to_image")}
    image, text = np.concatenate(self._image), np.concatenate(self._text)
    numbers: dict[Hashable, int] = {}
    caption_N = np.array([numbers.setdefault(c, len(numbers)) for c in self._captions])
    return {
      "image_to_text": self._recall(image, text, caption_N),
      "text_to_image": self._recall(text, image, caption_N),
    }

  def _recall(self, query: np.ndarray, offer: np.ndarray, caption_N: np.ndarray) -> Rate:
    chosen_N = np.concatenate(
      [np.argmax(query[i : i + _ROWS] @ offer.T, axis=1) for i in range(0, len(query), _ROWS)]
    )
    return wilson(int(np.sum(caption_N[chosen_N] == caption_N)), len(caption_N))


def _unit(x_NE: np.ndarray) -> np.ndarray:
  x_NE = np.asarray(x_NE, np.float32)
  return x_NE / np.maximum(np.linalg.norm(x_NE, axis=1, keepdims=True), 1e-12)
