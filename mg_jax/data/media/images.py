"""Writing images: one frame as PNG, and contact sheets of clips.

Images are uint8 (H, W, 3). Pillow is imported on first use.
"""

import os
import textwrap
from collections.abc import Sequence

import numpy as np

from mg_jax.data import atomic

_MARGIN = 4
_LINE = 14


def write_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
  """Writes uint8 (H, W, 3) RGB or (H, W) grey losslessly; atomic."""
  from PIL import Image

  if image.dtype != np.uint8:
    raise ValueError(f"image must be uint8, got {image.dtype}")
  with atomic.replacing(path) as partial:
    Image.fromarray(np.ascontiguousarray(image)).save(partial, format="PNG")


def contact_sheet(
  videos: Sequence[np.ndarray],
  captions: Sequence[str],
  path: str | os.PathLike[str],
  *,
  columns: int = 8,
) -> None:
  """Writes one PNG with a row per clip: `columns` evenly spaced frames under the caption.

  Args:
    videos: clips uint8 (T, H, W, 3), each of any length and size; a clip with fewer frames than
      columns shows all of them.
    captions: one text per clip; long ones wrap.
    path: target.
    columns: frames per row, >= 1.
  """
  from PIL import Image, ImageDraw, ImageFont

  if len(videos) != len(captions) or not videos or columns < 1:
    raise ValueError(
      f"need as many captions as videos and at least one, got {len(videos)} and {len(captions)}"
    )
  font = ImageFont.load_default()
  rows = []
  for video, caption in zip(videos, captions, strict=True):
    count = min(columns, len(video))
    frames = [video[i] for i in np.linspace(0, len(video) - 1, count).round().astype(int)]
    strip = np.concatenate([np.pad(f, ((0, 0), (0, _MARGIN), (0, 0))) for f in frames], axis=1)
    printable = caption.encode("utf-8", errors="replace").decode("utf-8").replace("\0", " ")
    rows.append((strip, printable))
  width = max(max(strip.shape[1] for strip, _ in rows), 240) + _MARGIN
  texts = [textwrap.wrap(text, max(1, (width - 2 * _MARGIN) // 6))[:6] for _, text in rows]
  height = sum(
    strip.shape[0] + _LINE * len(text) + 2 * _MARGIN
    for (strip, _), text in zip(rows, texts, strict=True)
  )
  sheet = Image.new("RGB", (width, height + _MARGIN))
  draw = ImageDraw.Draw(sheet)
  top = _MARGIN
  for (strip, _), lines in zip(rows, texts, strict=True):
    for line in lines:
      draw.text((_MARGIN, top), line, fill=(235, 235, 235), font=font)
      top += _LINE
    sheet.paste(Image.fromarray(np.ascontiguousarray(strip)), (_MARGIN, top))
    top += strip.shape[0] + 2 * _MARGIN
  write_png(path, np.asarray(sheet))
