"""Published codecs whose kernels are norms and directions: both are kept on demand."""

import jax
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.models.weights import converted, published
from tests.models.weights import published_test

# Fixtures: a folder and its arrays.
codec, t5 = published_test.codec, published_test.t5
save = published_test._save


def test_a_codec_keeps_its_norms_on_demand(codec, tmp_path):
  folder, arrays = codec
  published.convert(folder, tmp_path / "folded", "dacvae")
  written = published.convert(folder, tmp_path / "kept", "dacvae", weight_norm=True)
  assert written["model"]["weight_norm"] is True
  model, params = converted.load(tmp_path / "kept")
  assert model == converted.module(tmp_path / "folded").clone(weight_norm=True)
  up, down = params["decoder_levels_0"]["resample"], params["encoder_levels_1"]["resample"]
  for ours, theirs in ((up, "decoder.model.1.block.1"), (down, "encoder.block.2.block.4")):
    np.testing.assert_array_equal(ours["scale"].ravel(), arrays[f"{theirs}.weight_g"].ravel())
  direction = arrays["decoder.model.1.block.1.weight_v"]
  np.testing.assert_array_equal(up["direction"][3, 1, 2, 1], direction[3, 1, 4 + 2])
  np.testing.assert_array_equal(
    params["posterior"]["direction"][0], arrays["quantizer.in_proj.weight_v"][:, :, 0].T
  )
  wave = np.random.default_rng(1).uniform(-1, 1, (1, 24)).astype(np.float32)
  folded, plain = converted.load(tmp_path / "folded")
  for a, b in zip(
    jax.jit(model.apply)({"params": params}, wave), jax.jit(folded.apply)({"params": plain}, wave),
    strict=True,
  ):  # fmt: skip
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_both_spellings_of_weight_norm_are_read(codec, tmp_path):
  folder, arrays = codec
  published.convert(folder, tmp_path / "ours", "dacvae")
  newer = {"_g": ".original0", "_v": ".original1"}
  renamed = {
    f"{name[:-9]}.parametrizations.weight{newer[name[-2:]]}" if name[-2:] in newer else name: a
    for name, a in arrays.items()
  }
  assert "quantizer.in_proj.parametrizations.weight.original0" in renamed
  save(folder / "model.safetensors", renamed)
  published.convert(folder, tmp_path / "again", "dacvae")
  first, second = ((tmp_path / n / converted.WEIGHTS).read_bytes() for n in ("ours", "again"))
  assert first == second


def test_a_norm_that_is_not_there_cannot_be_kept(codec, t5, tmp_path):
  folder, arrays = codec
  with pytest.raises(UserError, match="kind t5 have no weight norm"):
    published.convert(t5[0], tmp_path / "ours", "t5", weight_norm=True)
  save(folder / "model.safetensors", {n: a for n, a in arrays.items() if "weight_g" not in n})
  with pytest.raises(UserError, match="has plain kernels, no weight norm to keep"):
    published.convert(folder, tmp_path / "ours", "dacvae", weight_norm=True)
  assert not (tmp_path / "ours").exists()
