"""LPIPS with made-up weights: what a distance has to do, and files that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data import tensors
from mg_jax.models.codecs import perceptual

WIDTHS = (64, 128, 256, 512, 512)


def made_up(widths=WIDTHS):
  """Trunk and heads in the published names."""
  rng = np.random.default_rng(0)
  trunk, heads, before = {}, {}, 3
  for k, (level, width) in enumerate(zip(perceptual.LEVELS, widths, strict=True)):
    for number in level:
      std = np.sqrt(2 / (9 * before))
      kernel = rng.standard_normal((width, before, 3, 3), np.float32) * np.float32(std)
      trunk[f"features.{number}.weight"] = kernel
      trunk[f"features.{number}.bias"] = rng.standard_normal(width, np.float32) * np.float32(0.1)
      before = width
    heads[f"lin{k}.model.1.weight"] = rng.random((1, width, 1, 1), np.float32)
  return trunk, heads


def write(path, arrays):
  entries = {name: (a.shape, a.dtype) for name, a in arrays.items()}
  tensors.write(path, entries, ((name, iter([a])) for name, a in arrays.items()))
  return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("lpips")
  trunk, heads = made_up()
  trunk["classifier.0.weight"] = np.zeros((2, 2), np.float32)
  return write(folder / "vgg16.safetensors", trunk), write(folder / "heads.safetensors", heads)


@pytest.fixture(scope="module")
def lpips():
  """A narrow one: what holds for any weights holds for few."""
  trunk, heads = made_up((4, 4, 8, 8, 8))
  convs = {
    n: (trunk[f"features.{n}.weight"].transpose(2, 3, 1, 0), trunk[f"features.{n}.bias"])
    for level in perceptual.LEVELS for n in level
  }  # fmt: skip
  narrow = perceptual.LPIPS(convs, tuple(head.ravel() for head in heads.values()))
  return jax.jit(narrow.__call__)


def image(seed, size=32):
  return jax.random.uniform(jax.random.key(seed), (2, size, size, 3), minval=-1.0, maxval=1.0)


def test_it_is_a_distance(lpips):
  a, b = image(0), image(1)
  far = lpips(a, b)
  assert far.shape == (2,) and jnp.all(far > 0)
  np.testing.assert_allclose(lpips(b, a), far, rtol=1e-5)
  np.testing.assert_allclose(lpips(a, a), 0.0, atol=1e-6)
  near = lpips(a, a + 0.01 * (b - a))
  assert jnp.all(near < far)


def test_it_has_a_gradient_and_images_of_one_colour_a_finite_one(lpips):
  def loss(a, b):
    return lpips(a, b).sum()

  slope = jax.jit(jax.grad(loss))
  gradient = slope(image(0), image(1))
  assert jnp.all(jnp.isfinite(gradient)) and jnp.abs(gradient).max() > 0
  flat = jnp.zeros((1, 16, 16, 3))
  assert jnp.all(jnp.isfinite(slope(flat, flat)))


def test_small_images_are_refused(lpips):
  with pytest.raises(UserError, match="at least 16 pixels per side, not 8"):
    lpips(image(0, 8), image(1, 8))


def test_published_names_give_kernels_and_heads(files):
  found = perceptual.load(files)
  trunk, heads = made_up()
  kernel, bias = found.convs[12]
  np.testing.assert_array_equal(kernel[0, 2, :, 5], trunk["features.12.weight"][5, :, 0, 2])
  np.testing.assert_array_equal(bias, trunk["features.12.bias"])
  np.testing.assert_array_equal(found.heads[3], heads["lin3.model.1.weight"].ravel())


def test_files_that_do_not_fit_are_refused(files, tmp_path):
  trunk, heads = files
  with pytest.raises(UserError, match="have no lin0.model.1.weight"):
    perceptual.load([trunk])
  with pytest.raises(UserError, match="have no features.0.weight"):
    perceptual.load([heads])
  with pytest.raises(UserError, match="nowhere"):
    perceptual.load([trunk, tmp_path / "nowhere.safetensors"])
  arrays = made_up()[1]
  for name, change, words in (
    ("lin2.model.1.weight", lambda a: -a, "lin2.model.1.weight has negative values"),
    ("lin1.model.1.weight", lambda a: a[:, :5], "lin1.model.1.weight has shape"),
    ("lin4.model.1.weight", lambda a: a * np.nan, "not finite"),
  ):
    bad = write(tmp_path / f"{name}.safetensors", arrays | {name: change(arrays[name])})
    with pytest.raises(UserError, match=words):
      perceptual.load([trunk, bad])
