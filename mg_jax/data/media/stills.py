"""Still images: PNG, JPEG and WebP files as one frame, uint8 (H, W, 3) sRGB [MG 3.2.1].

An image is turned upright as its EXIF says, then composited on white where it is transparent, then
brought to sRGB: an embedded ICC profile is converted from, CMYK without one as Pillow does (the
complement of ink, darkened by black), grey is repeated, palettes are looked up, and 16-bit grey is
scaled to 8. Without a profile colours are sRGB already; the gAMA and cHRM chunks of PNG are not
looked at. At last it is scaled with its aspect ratio kept until it covers the size asked for, by an
antialiased Lanczos filter, and cut at the centre, as video frames are. Of an animation the first
frame is read. What a file is, its content says and not its ending; other formats than these three
are refused, as are images above 40 megapixels or with a side above 16,384, before they are decoded.
Whatever is wrong with a file is a `MediaError`. Pillow is imported when first used.
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
# What Pillow raises on files that are not as they should be.
_BROKEN = (
  OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, EOFError, struct.error,
  zlib.error,
)  # fmt: skip
# The colour space of an ICC profile -> the mode of the pixels that it describes.
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def probe(path: str | os.PathLike[str]) -> tuple[int, int]:
  """Upright (H, W) of an image, from its header; only one whose end looks cut off is decoded.

  Raises:
    MediaError: missing, empty, unreadable, too large, or truncated.
  """
  with _opened(path) as image:
    # A PNG may carry EXIF behind its pixels, which would have to be decoded to get there.
    turned = image.format != "PNG" or "exif" in image.info
    width, height = image.size
    if turned and _orientation(image) >= 5:
      height, width = width, height
    if not _ends(path, image.format):
      _load(path, image)
    return height, width


def read(path: str | os.PathLike[str], *, size: tuple[int, int]) -> np.ndarray:
  """Decodes an image as uint8 (H, W, 3) of `size` (H, W).

  Raises:
    MediaError: as `probe`, or its pixels are damaged.
  """
  from PIL import Image

  with _opened(path) as image:
    # A JPEG far larger than asked for is decoded at a half, a quarter or an eighth of its size,
    # never below twice that of the result.
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
  """Yields the image of Pillow, of which the header alone has been read, within our limits."""
  from PIL import Image

  try:
    if os.path.isfile(path) and os.path.getsize(path) == 0:
      raise MediaError("empty", path, "the file holds no bytes")
    opened = Image.open(path, formats=_FORMATS)
  except FileNotFoundError as error:
    raise MediaError("missing", path, "there is no such file") from error
  except Image.DecompressionBombError as error:
    raise MediaError("too_large", path, str(error)) from error
  except Image.UnidentifiedImageError as error:
    raise MediaError("unreadable", path, "it is no PNG, JPEG or WebP image") from error
  except _BROKEN as error:
    if _cut_webp(path):
      raise MediaError("truncated", path, "it ends before its image does") from error
    raise MediaError("unreadable", path, f"it cannot be opened ({error})") from error
  with opened as image:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
      detail = f"it has {width}x{height} pixels"
      if max(width, height) > MAX_SIDE:
        detail += f", and a side may have {MAX_SIDE}"
      raise MediaError("too_large", path, detail)
    yield image


def _load(path: str | os.PathLike[str], image: Any) -> None:
  """Decodes the pixels."""
  try:
    image.load()
  except _BROKEN as error:
    reason = "truncated" if "truncated" in str(error) else "damaged"
    raise MediaError(reason, path, f"its pixels cannot be decoded ({error})") from error


def _ends(path: str | os.PathLike[str], kind: str) -> bool:
  """Whether the file goes on to the end that its format marks; Pillow sees to that of WebP."""
  end = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}.get(kind, b"")
  with open(path, "rb") as file:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
    return end in file.read()


def _cut_webp(path: str | os.PathLike[str]) -> bool:
  """Whether a file is shorter than its RIFF header says."""
  if not os.path.isfile(path):
    return False
  with open(path, "rb") as file:
    head = file.read(8)
    told = 8 + int.from_bytes(head[4:], "little")
    return head.startswith(b"RIFF") and file.seek(0, os.SEEK_END) < told


def _orientation(image: Any) -> int:
  """The EXIF orientation, 1 to 8; 1 where there is none that can be read."""
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

  alpha, clear = None, image.info.get("transparency")
  if image.mode.startswith("I"):  # 16 bits, with rows of 32 in older releases of Pillow
    wide = np.asarray(image).astype(np.int64).clip(0, 65535)
    image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if clear is not None:
      alpha = Image.fromarray(np.where(wide == clear, 0, 255).astype(np.uint8))
  elif isinstance(clear, tuple) and max(clear) > 255:
    # Of colours of 16 bits Pillow keeps the upper half, but not of the one that is transparent.
    image.info["transparency"] = tuple(value >> 8 for value in clear)
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
  """Pixels of a mode that profiles describe (L, RGB, CMYK) or of another as sRGB."""
  transform = _transform(profile, image.mode) if profile else None
  if transform is None:
    return image.convert("RGB")
  return transform.apply(image)


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> Any | None:
  """The transform from a profile to sRGB; None where it is sRGB, of another mode, or broken."""
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
