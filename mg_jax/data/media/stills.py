"""Still images: PNG, JPEG and WebP files as one frame, uint8 (H, W, 3) sRGB [MG 3.2.1].

An image is rotated by its EXIF orientation, composited on white where it is transparent, and
converted to sRGB: from an embedded ICC profile; CMYK without one as Pillow does (the complement of
ink, darkened by black); grey is repeated, palettes are looked up, and 16-bit grey is scaled to 8.
Without a profile, colours are taken to be sRGB; the gAMA and cHRM chunks of PNG are ignored. It is
then scaled, with its aspect ratio kept, to cover the requested size by an antialiased Lanczos
filter, and centre-cropped, as video frames are. Of an animation the first frame is read. The
format is determined by content, not by extension; formats other than these three are rejected, as
are images above 40 megapixels or with a side above 16,384, before they are decoded. Every fault of
a file raises a `MediaError`. Pillow is imported on first use.
"""

import contextlib
import functools
import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from mg_jax.data.media.containers import MAX_PIXELS, MediaError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_FORMATS = ("PNG", "JPEG", "WEBP")
MAX_SIDE = 16_384
_ORIENTATION = 0x0112
_TAIL = 64
# What Pillow raises on malformed files.
_BROKEN = (
  OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, EOFError, struct.error,
  zlib.error,
)  # fmt: skip
# The colour space of an ICC profile -> the mode of the pixels that it describes.
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def probe(path: str | os.PathLike[str]) -> tuple[int, int]:
  """Upright (H, W) of an image, from its header; decoded only if it looks truncated.

  Raises:
    MediaError: missing, empty, unreadable, too large, or truncated.
  """
  with _opened(path) as image:
    # EXIF after the pixels of a PNG is ignored: reaching it would mean decoding them.
    turned = image.format != "PNG" or "exif" in image.info
    width, height = image.size
    if turned and _orientation(image) >= 5:
      height, width = width, height
    if not _has_end_marker(path, image.format):
      _load(path, image)
    return height, width


def read(path: str | os.PathLike[str], *, size: tuple[int, int]) -> np.ndarray:
  """Decodes an image as uint8 (H, W, 3) of `size` (H, W).

  Raises:
    MediaError: as `probe`, or its pixels are damaged.
  """
  from PIL import Image

  with _opened(path) as image:
    # A JPEG far larger than requested is decoded at a half, a quarter or an eighth of its size,
    # never below twice the requested size.
    side = 2 * max(size)
    image.draft(None, (side, side))
    _load(path, image)
    try:
      upright = _upright(image)
      rgb = _rgb(upright, image.info.get("icc_profile"))
    except _BROKEN as error:
      raise MediaError("damaged", path, f"its pixels cannot be read ({error})") from error
  height, width = size
  scale = max(height / rgb.height, width / rgb.width)
  # Rounding must not push the box out of the image.
  wide, high = min(width / scale, rgb.width), min(height / scale, rgb.height)
  left, top = (rgb.width - wide) / 2, (rgb.height - high) / 2
  box = left, top, min(left + wide, rgb.width), min(top + high, rgb.height)
  fitted = rgb.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
  return np.asarray(fitted)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
  """Yields the Pillow image, within our limits, with only its header read."""
  from PIL import Image

  try:
    if os.path.isfile(path) and os.path.getsize(path) == 0:
      raise MediaError("empty", path, "the file is empty")
    opened = Image.open(path, formats=_FORMATS)
  except FileNotFoundError as error:
    raise MediaError("missing", path, "there is no such file") from error
  except Image.DecompressionBombError as error:
    raise MediaError("too_large", path, str(error)) from error
  except Image.UnidentifiedImageError as error:
    raise MediaError("unreadable", path, "it is not a PNG, JPEG or WebP image") from error
  except _BROKEN as error:
    if _is_truncated_webp(path):
      raise MediaError("truncated", path, "it is shorter than its header states") from error
    raise MediaError("unreadable", path, f"it cannot be opened ({error})") from error
  with opened as image:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
      detail = f"it has {width}x{height} pixels"
      if max(width, height) > MAX_SIDE:
        detail += f"; a side may have at most {MAX_SIDE}"
      raise MediaError("too_large", path, detail)
    yield image


def _load(path: str | os.PathLike[str], image: Any) -> None:
  """Decodes the pixels."""
  try:
    image.load()
  except _BROKEN as error:
    reason = "truncated" if "truncated" in str(error) else "damaged"
    raise MediaError(reason, path, f"its pixels cannot be decoded ({error})") from error


def _has_end_marker(path: str | os.PathLike[str], kind: str) -> bool:
  """Whether the file has the end marker of its format; Pillow checks the end of WebP itself."""
  end = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}.get(kind, b"")
  with open(path, "rb") as file:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
    return end in file.read()


def _is_truncated_webp(path: str | os.PathLike[str]) -> bool:
  """Whether a file is shorter than its RIFF header states."""
  if not os.path.isfile(path):
    return False
  with open(path, "rb") as file:
    head = file.read(8)
    stated = 8 + int.from_bytes(head[4:], "little")
    return head.startswith(b"RIFF") and file.seek(0, os.SEEK_END) < stated


def _orientation(image: Any) -> int:
  """The EXIF orientation, 1 to 8; 1 if it is missing or malformed."""
  try:
    value = image.getexif().get(_ORIENTATION, 1)
  except _BROKEN:
    return 1
  return value if value in range(1, 9) else 1


def _upright(image: Any) -> Any:
  from PIL import Image

  turns = Image.Transpose
  turn = {
    2: turns.FLIP_LEFT_RIGHT, 3: turns.ROTATE_180, 4: turns.FLIP_TOP_BOTTOM, 5: turns.TRANSPOSE,
    6: turns.ROTATE_270, 7: turns.TRANSVERSE, 8: turns.ROTATE_90,
  }.get(_orientation(image))  # fmt: skip
  return image if turn is None else image.transpose(turn)


def _rgb(image: Any, profile: bytes | None) -> Any:
  """A decoded image of any mode as sRGB."""
  from PIL import Image

  alpha, transparent = None, image.info.get("transparency")
  if image.mode.startswith("I"):  # 16 bits, stored as 32 in older releases of Pillow
    wide = np.asarray(image).astype(np.int64).clip(0, 65535)
    image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if transparent is not None:
      alpha = Image.fromarray(np.where(wide == transparent, 0, 255).astype(np.uint8))
  elif isinstance(transparent, tuple) and max(transparent) > 255:
    # Pillow keeps the upper byte of 16-bit colours, except for the transparent one.
    image.info["transparency"] = tuple(value >> 8 for value in transparent)
  if image.has_transparency_data:
    grey = image.mode in ("L", "LA")
    image = image.convert("LA" if grey else "RGBA")
    alpha = image.getchannel("A")
    image = image.convert("L" if grey else "RGB")
  elif image.mode in ("1", "P"):
    image = image.convert("L" if image.mode == "1" else "RGB")
  image = _srgb(image, profile)
  if alpha is None:
    return image
  white = Image.new("RGB", image.size, (255, 255, 255))
  white.paste(image, mask=alpha)
  return white


def _srgb(image: Any, profile: bytes | None) -> Any:
  """Pixels of any mode as sRGB; profiles apply to L, RGB and CMYK."""
  transform = _transform(profile, image.mode) if profile else None
  if transform is None:
    return image.convert("RGB")
  return transform.apply(image)


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> Any | None:
  """The transform from a profile to sRGB; None if it is sRGB, of another mode, or malformed."""
  from PIL import ImageCms

  try:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if _SPACES.get(source.profile.xcolor_space.strip()) != mode:
      return None
    if "srgb" in ImageCms.getProfileDescription(source).lower():
      return None
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
  except (ImageCms.PyCMSError, *_BROKEN):
    return None
