"""Kernels on their way into a model of the other form: from runs, from folders, in every layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import unbox
from mg_jax.core.tree import flatten_paths
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.weights import converted, published
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.kernels import as_in
from mg_jax.train.warmstart import WarmStartConfig, warm_start

FIELDS = {"channels": 2, "rates": (2, 4), "hidden": 4, "decoder_channels": 8, "latent": 3}
PLAIN, NORMED = DACVAE(**FIELDS), DACVAE(**FIELDS, weight_norm=True)
WAVE = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 32)), jnp.float32)


def params_of(model, seed):
  """Random values in the shapes of a model, norms and directions of their own included."""
  shapes = unbox(jax.eval_shape(model.init, jax.random.key(0), WAVE)["params"])
  leaves, structure = jax.tree.flatten(shapes)
  rng = np.random.default_rng(seed)
  values = [jnp.asarray(rng.uniform(0.1, 0.4, leaf.shape), jnp.float32) for leaf in leaves]
  return jax.tree.unflatten(structure, values)


def latent_of(model, params):
  return jax.jit(lambda p: model.apply({"params": p}, WAVE, method="encode")[0])(params)


@pytest.mark.parametrize("source, target", [(PLAIN, NORMED), (NORMED, PLAIN)])
def test_a_run_fills_a_model_of_the_other_form(source, target, tmp_path):
  params = params_of(source, 1)
  saver = Checkpointer(tmp_path, name="old")
  saver.save(3, {"params": {"autoencoder": params}}, data=None)
  saver.close()
  start = {"autoencoder": params_of(target, 2)}
  filled = warm_start(start, WarmStartConfig(workdir=str(tmp_path), ema=False))["autoencoder"]
  assert jax.tree.structure(filled) == jax.tree.structure(start["autoencoder"])
  np.testing.assert_allclose(latent_of(target, filled), latent_of(source, params), rtol=1e-5)
  up = filled["decoder_levels_0"]["resample"]
  if target is NORMED:
    kernel = params["decoder_levels_0"]["resample"]["kernel"]
    np.testing.assert_allclose(
      up["scale"][:, 0, 0, 0], np.sqrt(np.square(kernel).sum((1, 2, 3))), rtol=1e-5
    )


@pytest.mark.parametrize("source, target", [(PLAIN, NORMED), (NORMED, PLAIN), (NORMED, NORMED)])
def test_a_folder_fills_a_model_of_either_form(source, target, tmp_path):
  params = params_of(source, 1)
  fields = FIELDS | {"weight_norm": source.weight_norm}
  published.save(tmp_path / "codec", "dacvae", fields, params)
  config = WarmStartConfig(workdir=str(tmp_path / "codec"), into="autoencoder")
  filled = warm_start({"autoencoder": params_of(target, 2)}, config)["autoencoder"]
  np.testing.assert_allclose(latent_of(target, filled), latent_of(source, params), rtol=1e-5)
  model, loaded = converted.load(tmp_path / "codec")
  assert model == source.clone(dtype="float32")
  np.testing.assert_array_equal(latent_of(model, loaded), latent_of(source, params))


def test_a_rename_counts_and_what_fits_is_left_alone():
  shapes = {"a/conv/kernel": jax.ShapeDtypeStruct((1, 1, 2), jnp.float32)}
  read = lambda wanted: {path: np.array([[[-3.0, 4.0]]]) for path in wanted}  # noqa: E731
  target = {"b/conv/direction": np.zeros((1, 1, 2)), "b/conv/scale": np.zeros((1, 1, 2))}
  rename = lambda path: path.replace("a/", "b/")  # noqa: E731
  saved, read_as = as_in(target, shapes, read, rename=rename)
  assert set(saved) == {"a/conv/direction", "a/conv/scale"}
  values = read_as(saved)
  np.testing.assert_array_equal(values["a/conv/direction"], [[[-3, 4]]])
  np.testing.assert_array_equal(values["a/conv/scale"], [[[3, 4]]])
  kept, same = as_in({"a/conv/kernel": np.zeros((1, 1, 2))}, shapes, read)
  assert kept == shapes and set(same(kept)) == set(shapes)


def test_a_direction_without_its_norms_is_refused(tmp_path):
  params = params_of(NORMED, 1)
  del params["expand"]["scale"]
  saver = Checkpointer(tmp_path, name="old")
  saver.save(3, {"params": {"autoencoder": params}}, data=None)
  saver.close()
  with pytest.raises(UserError, match=r"expand/kernel: wanted .* not saved \(missing\)"):
    start = {"autoencoder": params_of(PLAIN, 2)}
    warm_start(start, WarmStartConfig(workdir=str(tmp_path), ema=False))
  assert "autoencoder/expand/direction" in flatten_paths({"autoencoder": params})
