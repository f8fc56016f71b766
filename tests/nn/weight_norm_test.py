"""Weight norm: the same network at the start, which axis has norms, what learns and what decays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import dacvae
from mg_jax.core import config as configs
from mg_jax.core.sharding import spec_table, unbox
from mg_jax.core.tree import flatten_paths
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.codecs.wave_critics import WaveCritics
from mg_jax.nn.audio import WaveConv, WaveDown, WaveUp
from mg_jax.nn.conv import PlaneConv
from mg_jax.nn.weight_norm import fold, norms
from mg_jax.train.optim import OptimConfig, build_optimizer

LAYERS = {
  "conv": (WaveConv(3, kernel=5), (2, 8, 4), (1, 1, 3)),
  "down": (WaveDown(3, stride=2), (2, 8, 4), (1, 1, 1, 3)),
  "up": (WaveUp(3, stride=2), (2, 8, 4), (4, 1, 1, 1)),
  "plane": (PlaneConv(3, (3, 5)), (2, 6, 8, 4), (1, 1, 1, 3)),
}


@pytest.fixture(params=LAYERS)
def layers(request):
  """(plain layer, its parameters, the same with weight norm, its parameters, x)."""
  layer, shape, _ = LAYERS[request.param]
  x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
  normed = layer.clone(weight_norm=True)
  made = [unbox(one.init(jax.random.key(1), x))["params"] for one in (layer, normed)]
  assert made[1]["scale"].shape == LAYERS[request.param][2]
  return layer, made[0], normed, made[1], x


def test_training_starts_from_the_plain_network(layers):
  layer, plain, normed, params, x = layers
  assert set(plain) == {"kernel", "bias"} and set(params) == {"direction", "scale", "bias"}
  np.testing.assert_array_equal(params["direction"], plain["kernel"])
  np.testing.assert_allclose(
    normed.apply({"params": params}, x), layer.apply({"params": plain}, x), atol=1e-6
  )


def test_length_is_in_the_scale_alone(layers):
  _, _, normed, params, x = layers
  run = lambda **changes: normed.apply({"params": params | changes}, x)  # noqa: E731
  np.testing.assert_allclose(run(direction=7 * params["direction"]), run(), atol=1e-5)
  np.testing.assert_allclose(run(scale=2 * params["scale"]), 2 * run(), atol=1e-5)
  loss = lambda v: jnp.sum(jnp.square(normed.apply({"params": params | {"direction": v}}, x)))  # noqa: E731
  gradient = jax.grad(loss)(params["direction"])
  assert np.abs(gradient).max() > 0.1
  axes = tuple(i for i, n in enumerate(params["scale"].shape) if n == 1)
  along = np.sum(gradient * params["direction"], axis=axes)
  np.testing.assert_allclose(along, 0, atol=1e-4)


def test_a_kernel_of_one_tap_and_channel_has_its_sign_as_direction():
  kernel = jnp.array([[[-3.0, 0.5]]])
  scale = norms(kernel, (1, 1, 2))
  np.testing.assert_allclose(scale, [[[3.0, 0.5]]])
  np.testing.assert_allclose(fold(kernel, 2 * scale), 2 * kernel)


def test_the_recipe_trains_with_it_and_the_tiny_ones_do_not():
  for arg, wanted in ((None, True), ("tiny", False), ("tiny,toy", False)):
    config = dacvae.get_config(arg)
    assert config.model.weight_norm == config.critics.weight_norm == wanted


@pytest.mark.parametrize("cls, section", [(DACVAE, "model"), (WaveCritics, "critics")])
def test_every_kernel_of_the_paper_size_has_one_and_is_spread_alike(cls, section):
  """What differs from the plain tree, which has a golden, is each kernel, and nothing else."""
  fields = dacvae.get_config()[section].to_dict()
  wave = jax.ShapeDtypeStruct((1, 9600), jnp.float32)

  def tree(**changes):
    model = configs.build(cls, fields | changes)
    return jax.eval_shape(model.init, jax.random.key(0), wave)["params"]

  spec = lambda line: line.split(" float32 ")[1]  # noqa: E731
  plain, normed = (
    {line.split(" ", 1)[0]: line for line in spec_table(one)}
    for one in (tree(weight_norm=False), tree())
  )
  kernels = [path for path in plain if path.endswith("/kernel")]
  assert len(kernels) > 50
  for path in kernels:
    line, layer = plain.pop(path), path.removesuffix("kernel")
    direction, scale = normed.pop(layer + "direction"), normed.pop(layer + "scale")
    assert direction == line.replace("/kernel", "/direction")
    if "decoder" in path and "resample" in path:  # of input channels, which are not split
      assert spec(scale) == "(-, -, -, -)"
    elif not scale.split(" ")[1].endswith("x1"):
      assert spec(scale) == spec(line)
  assert plain == normed


def test_norms_do_not_decay():
  model = DACVAE(channels=2, rates=(2,), hidden=4, decoder_channels=4, latent=2, weight_norm=True)
  params = unbox(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8)))["params"])
  params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
  optimizer = build_optimizer(OptimConfig(weight_decay=0.01))
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates = flatten_paths(optimizer.update(zeros, optimizer.init(params), params)[0])
  decayed = {path.rpartition("/")[2] for path, leaf in updates.items() if np.any(leaf)}
  assert decayed == {"direction"}
