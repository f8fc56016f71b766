"""From a decoded frame to upright 8-bit RGB: colour space, deinterlacing, rotation.

- Matrix and range are those of the stream's tags. Untagged pictures are limited range, with the
  BT.709 matrix from 720 lines on and BT.601 below, as players assume.
- The transfer functions of standard dynamic range are close to each other and not converted.
  PQ and HLG are rejected ("hdr"): without the display's brightness, or tone mapping, their colours
  would come out pale. So are linear, logarithmic and cinema ones ("colours").
- BT.2020 and Display P3 primaries are converted to BT.709 in the linear light of a gamma 2.4
  display (ITU-R BT.2087), with out-of-gamut colours clipped; older television primaries differ
  little from BT.709 and are not converted. XYZ and cinema or camera gamuts are rejected, and so
  are matrices that FFmpeg's scaler does not support.
- Frames flagged as interlaced are deinterlaced at their own rate (FFmpeg's bwdif), others are
  unchanged.
- Higher bit depths are rounded to 8 bits; alpha is dropped.
"""

import math
import os
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from mg_jax.data.media.containers import MediaError

BT709 = 1  # The code of ITU-R BT.709 is the same in FFmpeg's frames and in its scaler.
_UNSPECIFIED = 2
# Codes of ITU-T H.273; 0 and 3 are reserved, and treated as untagged, as players do.
_HDR = {16: "PQ (SMPTE ST 2084)", 18: "HLG (ARIB STD-B67)"}
_TRANSFERS = {0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 15}
_PRIMARIES = {0, 1, 2, 3, 4, 5, 6, 7, 8, 22}
_GAMMA = 2.4
# Code -> matrix to linear BT.709 RGB, from BT.2020 and from Display P3.
_WIDE = {
  9: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
  12: ((1.2249, -0.2249, 0.0), (-0.0420, 1.0420, 0.0), (-0.0197, -0.0786, 1.0983)),
}
_MATRICES = {0, 1, 2, 3, 4, 5, 6, 7, 9}


def check(path: str | os.PathLike[str], codec: Any) -> None:
  """Raises a `MediaError` for a codec context whose colours cannot be converted to BT.709."""
  if codec.color_trc in _HDR:
    raise MediaError("hdr", path, f"its picture is high dynamic range, {_HDR[codec.color_trc]}")
  for name, value, known in (
    ("transfer function", codec.color_trc, _TRANSFERS),
    ("primaries", codec.color_primaries, _PRIMARIES | _WIDE.keys()),
    ("matrix", codec.colorspace, _MATRICES),
  ):
    if value not in known:
      raise MediaError("colours", path, f"its colours have a {name} of code {int(value)} (H.273)")


def progressive(frames: Iterator[tuple[float, Any]]) -> Iterator[tuple[float, Any]]:
  """Yields (time, frame) with interlaced frames deinterlaced."""
  import av

  shape, graph, times = None, None, deque()

  def filtered(frame: Any) -> Iterator[tuple[float, Any]]:
    graph.push(frame)
    while times:
      try:
        output = graph.pull()
      except (av.BlockingIOError, av.EOFError):
        return
      yield times.popleft(), output

  for time_s, frame in frames:
    if graph is not None and shape != (frame.width, frame.height, frame.format.name):
      yield from filtered(None)
      graph = None
    if graph is None and not frame.interlaced_frame:
      yield time_s, frame
      continue
    if graph is None:
      shape, graph = (frame.width, frame.height, frame.format.name), _deinterlacer(frame)
    times.append(time_s)
    yield from filtered(frame)
  if graph is not None:
    yield from filtered(None)


def _deinterlacer(frame: Any) -> Any:
  import av

  graph = av.filter.Graph()
  source = graph.add_buffer(
    width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
  )
  nodes = source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
  graph.link_nodes(*nodes).configure()
  return graph


def shown_size(frame: Any, *, pixel_shape: float) -> tuple[int, int]:
  """(H, W) of a frame as displayed, upright and with square pixels."""
  size = frame.height, max(1, math.floor(frame.width * pixel_shape + 0.5))
  return size if rotation(frame) in (0, 180) else size[::-1]


def to_rgb(
  frame: Any, size: tuple[int, int], *, pixel_shape: float, primaries: int
) -> np.ndarray:
  """Rotates, scales and crops a decoded frame to uint8 (H, W, 3) in BT.709.

  Args:
    frame: a PyAV frame.
    size: (H, W), which the picture covers.
    pixel_shape: pixel aspect ratio, width / height.
    primaries: code of the stream's primaries, one that `check` accepts.
  """
  from av.video.reformatter import Interpolation

  turn = rotation(frame)
  height, width = size if turn in (0, 180) else size[::-1]
  shown_width = frame.width * pixel_shape
  scale = max(height / frame.height, width / shown_width)
  scaled_height = max(height, math.floor(frame.height * scale + 0.5))
  scaled_width = max(width, math.floor(shown_width * scale + 0.5))
  guessed = frame.colorspace == _UNSPECIFIED and min(frame.height, frame.width) >= 720
  rgb = frame.reformat(
    width=scaled_width,
    height=scaled_height,
    format="rgb24",
    src_colorspace=BT709 if guessed else None,
    interpolation=Interpolation.AREA if scale < 1 else Interpolation.BILINEAR,
  ).to_ndarray()
  top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
  rgb = rgb[top : top + height, left : left + width]
  if primaries in _WIDE:
    rgb = _to_bt709(rgb, np.asarray(_WIDE[primaries], np.float32))
  return np.rot90(rgb, turn // 90)


def _to_bt709(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
  linear = (np.arange(256, dtype=np.float32) / 255) ** _GAMMA
  shown = np.clip(linear[rgb] @ matrix.T, 0, 1) ** (1 / _GAMMA)
  return np.round(255 * shown).astype(np.uint8)


def rotation(frame: Any) -> int:
  """Counter-clockwise rotation in degrees that makes a decoded frame upright: 0, 90, 180 or 270."""
  return round(frame.rotation / 90) * 90 % 360
