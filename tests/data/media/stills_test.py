"""Still images of every kind that Pillow can write, each with one property that can go wrong."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from mg_jax.data.media import stills
from mg_jax.data.media.containers import MediaError

HEIGHT, WIDTH = 24, 40


@pytest.fixture
def picture():
  """A smooth gradient whose four corners differ."""
  y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
  return np.stack([y * 10, x * 6, 255 - x * 6], axis=-1).astype(np.uint8)


def _save(path, image, **options):
  (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
  return path


def _read(path, size=(HEIGHT, WIDTH)):
  image = stills.read(path, size=size)
  assert image.shape == (*size, 3) and image.dtype == np.uint8
  return image.astype(int)


@pytest.mark.parametrize(
  "name, options, within",
  [
    ("a.png", {}, 0),
    ("a.webp", {"lossless": True}, 0),
    ("a.jpg", {"quality": 98, "subsampling": 0}, 6),
    ("a.JPEG", {"quality": 98, "progressive": True}, 12),
  ],
)
def test_formats(tmp_path, picture, name, options, within):
  path = _save(tmp_path / name, picture, **options)
  assert stills.probe(path) == (HEIGHT, WIDTH)
  assert np.abs(_read(path) - picture).max() <= within


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_exif_turns_images_upright(tmp_path, picture, orientation, name):
  exif = Image.Exif()
  exif[0x0112] = orientation
  inverse = {
    1: picture, 2: picture[:, ::-1], 3: picture[::-1, ::-1], 4: picture[::-1],
    5: picture.swapaxes(0, 1), 6: np.rot90(picture, 1), 7: picture[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90(picture, -1),
  }[orientation]  # fmt: skip
  options = {"quality": 98, "subsampling": 0} if name == "a.jpg" else {"lossless": True}
  path = _save(tmp_path / name, np.ascontiguousarray(inverse), exif=exif, **options)
  assert stills.probe(path) == (HEIGHT, WIDTH)
  assert np.abs(_read(path) - picture).max() <= 6


def test_an_orientation_that_is_none_leaves_the_image_as_it_is(tmp_path, picture):
  exif = Image.Exif()
  exif[0x0112] = 99
  path = _save(tmp_path / "a.jpg", picture, exif=exif.tobytes())
  assert stills.probe(path) == (HEIGHT, WIDTH)
  path = _save(tmp_path / "b.jpg", picture, exif=b"Exif\0\0not a directory of tags")
  assert stills.probe(path) == _read(path).shape[:2] == (HEIGHT, WIDTH)


def _with_alpha(picture, alpha):
  return np.concatenate([picture, np.full((HEIGHT, WIDTH, 1), alpha, np.uint8)], axis=-1)


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
@pytest.mark.parametrize("alpha", [0, 51, 255])
def test_alpha_is_composited_on_white(tmp_path, picture, name, alpha):
  path = _save(tmp_path / name, _with_alpha(picture, alpha), lossless=True, exact=True)
  expected = picture * (alpha / 255) + 255 * (1 - alpha / 255)
  assert np.abs(_read(path) - expected).max() <= 1


def test_grey_one_bit_and_grey_with_alpha(tmp_path, picture):
  grey = picture[..., 1]
  three = np.repeat(grey[..., None], 3, axis=-1)
  assert (_read(_save(tmp_path / "l.png", grey)) == three).all()
  assert (_read(_save(tmp_path / "1.png", Image.fromarray(grey > 99))) == 255 * (three > 99)).all()
  la = Image.merge("LA", [Image.fromarray(grey), Image.new("L", (WIDTH, HEIGHT), 0)])
  assert (_read(_save(tmp_path / "la.png", la)) == 255).all()
  key = _save(tmp_path / "key.png", Image.fromarray(grey), transparency=int(grey[0, 3]))
  assert (_read(key)[0, 3] == 255).all() and (_read(key)[0, 4] == grey[0, 4]).all()


def test_palettes_with_and_without_transparency(tmp_path):
  image = Image.new("P", (WIDTH, HEIGHT), 1)
  image.putpalette([10, 20, 30, 200, 100, 50])
  image.putpixel((0, 0), 0)
  plain = _read(_save(tmp_path / "p.png", image))
  assert plain[0, 0].tolist() == [10, 20, 30] and plain[5, 5].tolist() == [200, 100, 50]
  clear = _read(_save(tmp_path / "t.png", image, transparency=1))
  assert clear[0, 0].tolist() == [10, 20, 30] and clear[5, 5].tolist() == [255, 255, 255]


def test_sixteen_bits_are_scaled_and_not_cut(tmp_path):
  levels = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
  grey = _read(_save(tmp_path / "16.png", levels))
  assert np.abs(grey[..., 0] - levels / 257).max() <= 0.5 and (grey[..., 0] == grey[..., 2]).all()


def test_cmyk_without_a_profile_is_the_complement_of_ink(tmp_path):
  ink = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
  ink[..., 0], ink[: HEIGHT // 2, :, 3] = 255, 255
  path = _save(tmp_path / "c.jpg", Image.fromarray(ink, mode="CMYK"), quality=100)
  image = _read(path)
  assert np.abs(image[-4] - [0, 255, 255]).max() <= 6 and image[3].max() <= 6


def _profile(gamma):
  """An ICC profile with the primaries of sRGB, a plain power for its curve and another name."""
  profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
  # Point the three curves to a new "curv" tag of one number at the end, u8Fixed8.
  curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
  at, count = len(profile), struct.unpack(">I", profile[128:132])[0]
  for k in range(count):
    tag = 132 + 12 * k
    if profile[tag : tag + 4] in (b"rTRC", b"gTRC", b"bTRC"):
      profile[tag + 4 : tag + 12] = struct.pack(">II", at, len(curve))
    if profile[tag : tag + 4] == b"desc":
      offset, size = struct.unpack(">II", profile[tag + 4 : tag + 12])
      text = profile[offset : offset + size].replace("sRGB".encode("utf-16-be"), b"\0T\0e\0s\0t")
      profile[offset : offset + size] = text
  profile += curve
  profile[:4] = struct.pack(">I", len(profile))
  return bytes(profile)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_a_profile_become_srgb(tmp_path, name, alpha):
  if alpha and name == "a.jpg":
    return
  value = 100
  flat = np.full((HEIGHT, WIDTH, 3), value, np.uint8)
  pixels = _with_alpha(flat, 255) if alpha else flat
  options = {"quality": 100} if name == "a.jpg" else {"lossless": True}
  linear = _save(tmp_path / name, pixels, icc_profile=_profile(1.0), **options)
  # The curve of sRGB, IEC 61966-2-1, at a value that is linear light.
  expected = 255 * (1.055 * (value / 255) ** (1 / 2.4) - 0.055)
  assert np.abs(_read(linear) - expected).max() <= 2
  srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  same = _save(tmp_path / name, pixels, icc_profile=srgb, **options)
  assert np.abs(_read(same) - value).max() <= 1


@pytest.mark.parametrize("profile", [b"no profile at all", b""])
def test_broken_profiles_and_those_of_other_modes_are_ignored(tmp_path, picture, profile):
  path = _save(tmp_path / "a.png", picture, icc_profile=profile)
  assert (_read(path) == picture).all()
  grey = _save(tmp_path / "g.png", picture[..., 0], icc_profile=_profile(1.0))
  assert (_read(grey)[..., 1] == picture[..., 0]).all()


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_the_first_frame_of_an_animation(tmp_path, picture, name):
  others = [Image.fromarray(np.zeros_like(picture))] * 2
  options = {"save_all": True, "append_images": others, "duration": 100, "lossless": True}
  assert (_read(_save(tmp_path / name, picture, **options)) == picture).all()


def test_images_cover_the_size_and_are_cut_at_the_centre(tmp_path, picture):
  wide = np.concatenate([np.zeros_like(picture), picture, np.zeros_like(picture)], axis=1)
  path = _save(tmp_path / "a.png", wide)
  assert (_read(path) == picture).all()
  tall = _read(_save(tmp_path / "b.png", wide.swapaxes(0, 1).copy()), size=(WIDTH, HEIGHT))
  assert (tall == picture.swapaxes(0, 1)).all()
  small = _read(path, size=(HEIGHT // 2, WIDTH // 2))
  blocks = picture.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean((1, 3))
  assert np.abs(small - blocks)[2:-2, 2:-2].max() <= 3


def test_fine_patterns_become_grey_and_do_not_alias(tmp_path):
  checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
  for name, options in (("a.png", {}), ("a.jpg", {"quality": 95})):
    small = _read(_save(tmp_path / name, checks, **options), size=(32, 32))
    assert np.abs(small - 127).max() <= 3


def _reason(call, *args, **kwargs):
  with pytest.raises(MediaError) as caught:
    call(*args, **kwargs)
  return caught.value.reason, caught.value.detail


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.97])
def test_truncated_files_are_seen_without_decoding_whole_ones(tmp_path, name, part, monkeypatch):
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
  path = _save(tmp_path / name, noise, **({"quality": 100} if name != "a.png" else {}))
  whole = path.read_bytes()
  path.write_bytes(whole[: int(len(whole) * part)])
  assert _reason(stills.probe, path)[0] in ("truncated", "damaged")
  assert _reason(stills.read, path, size=(8, 8))[0] in ("truncated", "damaged")
  path.write_bytes(whole)
  monkeypatch.setattr(stills, "_load", None)
  assert stills.probe(path) == (64, 64)


def test_damaged_pixels_are_seen_when_they_are_read(tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
  path = _save(tmp_path / "a.png", noise)
  data = bytearray(path.read_bytes())
  at = data.index(b"IDAT") + 20
  data[at : at + 40] = bytes(40)
  path.write_bytes(bytes(data))
  assert stills.probe(path) == (HEIGHT, WIDTH)
  assert _reason(stills.read, path, size=(8, 8))[0] == "damaged"


@pytest.mark.parametrize(
  "data", [b"<html>not found</html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP"]
)
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_files_that_are_no_image(tmp_path, data, name):
  (tmp_path / name).write_bytes(data)
  assert _reason(stills.probe, tmp_path / name)[0] == "unreadable"


def test_other_formats_under_the_endings_of_images(tmp_path, picture):
  for kind in ("GIF", "TIFF", "BMP", "PPM"):
    _save(tmp_path / "a.png", picture, format=kind)
    assert "not a PNG, JPEG or WebP" in _reason(stills.probe, tmp_path / "a.png")[1]
  # The three are told apart by their content.
  assert (_read(_save(tmp_path / "b.jpg", picture, format="PNG")) == picture).all()


def test_empty_and_missing_files(tmp_path):
  (tmp_path / "a.png").write_bytes(b"")
  assert _reason(stills.probe, tmp_path / "a.png")[0] == "empty"
  assert _reason(stills.probe, tmp_path / "none.png")[0] == "missing"
  assert _reason(stills.probe, tmp_path)[0] == "unreadable"


def _png(width, height, *, bits=8, kind=2, clear=None, rows=b""):
  """A PNG that says it has so many pixels, whatever it holds; `kind` 0 is grey, 2 colour."""

  def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

  header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
  middle = b"" if clear is None else chunk(b"tRNS", clear)
  ends = middle + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + ends


@pytest.mark.parametrize("kind", [0, 2])
def test_a_transparent_colour_of_sixteen_bits(tmp_path, kind):
  clear = struct.pack(">H", 0x8000) * (kind + 1)
  row = b"\0" + (clear + bytes(len(clear))) * 4
  (tmp_path / "a.png").write_bytes(_png(8, 8, bits=16, kind=kind, clear=clear, rows=row * 8))
  image = stills.read(tmp_path / "a.png", size=(8, 8))
  assert (image[:, ::2] == 255).all() and (image[:, 1::2] == 0).all()


@pytest.mark.parametrize("width, height", [(6400, 6400), (30000, 30000), (100, 20000)])
def test_bombs_are_refused_from_their_headers(tmp_path, width, height, monkeypatch):
  (tmp_path / "a.png").write_bytes(_png(width, height))
  monkeypatch.setattr(stills, "_load", None)  # nothing is decoded
  for call, more in ((stills.probe, {}), (stills.read, {"size": (8, 8)})):
    reason, message = _reason(call, tmp_path / "a.png", **more)
    assert reason == "too_large"
    assert ("a side may have at most 16384" in message) == (height == 20000)


def test_bytes_behind_an_image_change_nothing(tmp_path, picture):
  for name in ("a.png", "a.jpg"):
    path = _save(tmp_path / name, picture)
    before = _read(path)
    with open(path, "ab") as file:
      file.write(bytes(1000))
    assert stills.probe(path) == (HEIGHT, WIDTH) and (_read(path) == before).all()


@pytest.mark.parametrize("side, size", [(47, 48), (49, 64), (171, 64), (663, 48)])
def test_sides_whose_scale_is_rounded(tmp_path, side, size):
  """The cut box of 47 or 49 pixels is wider than the image by a rounding error."""
  Image.new("RGB", (side, 2 * side), (9, 200, 30)).save(tmp_path / "a.png")
  Image.new("RGB", (2 * side, side), (9, 200, 30)).save(tmp_path / "b.png")
  for name in ("a.png", "b.png"):
    assert (stills.read(tmp_path / name, size=(size, size)) == (9, 200, 30)).all()
