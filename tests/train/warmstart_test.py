"""Warm starts: renaming, growth, and every leftover told."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import tae
from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.core.sharding import unbox
from mg_jax.core.tree import flatten_paths
from mg_jax.data import tensors
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.weights import converted
from mg_jax.train.checkpoint import Checkpointer
from mg_jax.train.growth import inflate, interpolate, pad_input
from mg_jax.train.loop import TrainConfig
from mg_jax.train.warmstart import WarmStartConfig, warm_start


@pytest.fixture
def source(tmp_path):
  """A workdir with params 0, 1, 2, ... and an EMA a hundred above them."""
  tree = {
    "blocks": {"kernel": jnp.arange(6.0).reshape(2, 3)},
    "patch": {"kernel": jnp.arange(8.0).reshape(4, 2)},
    "table": jnp.asarray([[0.0], [2.0]]),
  }
  params = {"model": tree}
  saver = Checkpointer(tmp_path, name="old")
  saver.save(3, {"params": params, "ema": jax.tree.map(lambda x: x + 100, params)}, data=None)
  saver.close()
  return str(tmp_path), params


def _zeros(params):
  return jax.tree.map(jnp.zeros_like, params)


def test_equal_trees_need_no_rules(source):
  workdir, params = source
  filled = warm_start(_zeros(params), WarmStartConfig(workdir=workdir))
  np.testing.assert_array_equal(
    filled["model"]["blocks"]["kernel"], params["model"]["blocks"]["kernel"] + 100
  )
  plain = warm_start(_zeros(params), WarmStartConfig(workdir=workdir, ema=False, step=3))
  assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), plain, params))


def test_sharding_and_dtype_of_the_target_are_kept(source):
  workdir, params = source
  mesh = make_mesh((1, 2, 1, 1))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
  target = _zeros(params)
  target["model"]["blocks"]["kernel"] = jax.device_put(jnp.zeros((2, 3), jnp.bfloat16), sharding)
  filled = warm_start(target, WarmStartConfig(workdir=workdir, ema=False))
  leaf = filled["model"]["blocks"]["kernel"]
  assert leaf.sharding == sharding and leaf.dtype == jnp.bfloat16
  np.testing.assert_array_equal(leaf.astype(jnp.float32), params["model"]["blocks"]["kernel"])


def test_every_leftover_is_told(source):
  workdir, params = source
  target = _zeros(params)
  tree = target["model"]
  tree["layers"] = tree.pop("blocks")
  tree["new"] = jnp.zeros((5,))
  tree["table"] = jnp.zeros((4, 1))
  with pytest.raises(UserError) as caught:
    warm_start(target, WarmStartConfig(workdir=workdir))
  message = str(caught.value)
  assert "5 parameters unsettled" not in message and "4 parameters unsettled" in message
  for line in (
    "model/blocks/kernel: saved float32[2,3], not in this model (unexpected)",
    "model/layers/kernel: wanted float32[2,3], not saved (missing)",
    "model/new: wanted float32[5], not saved (missing)",
    "model/table: saved float32[2,1], wanted float32[4,1]",
  ):
    assert line in message
  config = WarmStartConfig(
    workdir=workdir, ema=False, rename=(("blocks/", "layers/"),), allow_missing=("model/new$",),
    grow=(("table$", "interpolate"),),
  )
  filled = warm_start(target, config)["model"]
  np.testing.assert_array_equal(filled["layers"]["kernel"], params["model"]["blocks"]["kernel"])
  np.testing.assert_allclose(filled["table"][:, 0], [0.0, 0.5, 1.5, 2.0])
  assert not np.any(filled["new"])


def test_fresh_parameters_keep_their_initial_values_whatever_was_saved(source):
  workdir, params = source
  target = _zeros(params)
  target["model"]["table"] = jnp.full((4, 1), 7.0)
  config = WarmStartConfig(workdir=workdir, ema=False, grow=(("table|patch", "fresh"),))
  filled = warm_start(target, config)["model"]
  assert (filled["table"] == 7.0).all() and not np.any(filled["patch"]["kernel"])
  np.testing.assert_array_equal(filled["blocks"]["kernel"], params["model"]["blocks"]["kernel"])


def test_unexpected_parameters_can_be_left_out(source):
  workdir, params = source
  target = _zeros(params)
  del target["model"]["table"]
  config = WarmStartConfig(workdir=workdir, allow_unexpected=("table",))
  assert set(warm_start(target, config)["model"]) == {"blocks", "patch"}


def test_two_sources_for_one_target_are_an_error(source):
  workdir, params = source
  config = WarmStartConfig(workdir=workdir, rename=(("patch|blocks", "blocks"),))
  with pytest.raises(UserError, match="both model/blocks/kernel and model/patch/kernel map to it"):
    warm_start(_zeros(params), config)


def test_new_input_channels_start_at_zero_behind_the_old_ones(source):
  workdir, params = source
  target = _zeros(params)
  target["model"]["patch"]["kernel"] = jnp.ones((8, 2))
  config = WarmStartConfig(workdir=workdir, ema=False, grow=(("patch", "pad_input:2"),))
  grown = warm_start(target, config)["model"]["patch"]["kernel"]
  want = [[0, 1], [2, 3], [0, 0], [0, 0], [4, 5], [6, 7], [0, 0], [0, 0]]
  np.testing.assert_array_equal(grown, want)
  # Two patch positions of two old and two new channels: the old ones give what they gave before.
  x_old = np.array([1.0, -2.0, 3.0, 0.5])
  x_new = np.array([1.0, -2.0, 9.0, 9.0, 3.0, 0.5, 9.0, 9.0])
  np.testing.assert_allclose(x_new @ grown, x_old @ params["model"]["patch"]["kernel"])


def test_growth_mistakes_are_told(source):
  workdir, params = source
  target = _zeros(params)
  target["model"]["table"] = jnp.zeros((4, 1))
  with pytest.raises(UserError, match="'stretch' is unknown"):
    warm_start(target, WarmStartConfig(workdir=workdir, grow=(("table", "stretch"),)))
  with pytest.raises(UserError, match="cannot be padded"):
    pad_input(np.ones((4, 2)), (6, 3))
  with pytest.raises(UserError, match="cannot be inflated"):
    inflate(np.ones((4, 2)), (6, 2))
  with pytest.raises(UserError, match="cannot grow"):
    interpolate(np.ones((4, 2)), (6,))


def test_interpolation_keeps_lines_and_ends():
  line = np.arange(8.0)[:, None] * np.ones((1, 3))
  grown = interpolate(line, (24, 3))
  np.testing.assert_allclose(np.diff(grown[2:-2, 0]), 1 / 3)
  assert grown.min() == 0 and grown.max() == 7
  stacked = interpolate(np.stack([line, 2 * line]), (2, 16, 3))
  np.testing.assert_allclose(stacked[1], 2 * stacked[0])


def test_a_source_without_averages_says_so(tmp_path):
  saver = Checkpointer(tmp_path, name="old")
  saver.save(0, {"params": {"model": {"w": jnp.ones(2)}}}, data=None)
  saver.close()
  with pytest.raises(UserError, match="holds no ema; set ema=False"):
    warm_start({"model": {"w": jnp.ones(2)}}, WarmStartConfig(workdir=str(tmp_path)))


def test_a_run_of_another_experiment_is_warned_of(tmp_path, caplog):
  saver = Checkpointer(tmp_path, name="t2i_256")
  saver.save(0, {"params": {"model": {"w": jnp.ones(2)}}}, data=None)
  saver.close()
  for stage in ("t2i_256", "t2v_256"):
    start = WarmStartConfig(str(tmp_path), ema=False, after=f"a run of experiments/{stage}.py")
    warm_start({"model": {"w": jnp.zeros(2)}}, start)
  (warning,) = [text for text in caplog.messages if "experiment" in text]
  assert "is a run of experiment t2i_256" in warning and "experiments/t2v_256.py" in warning


SMALL = {"channels": 4, "multipliers": (1, 2), "blocks": 1, "latent": 2, "groups": 2}


def _params(seed, **fields):
  """Random parameters of an autoencoder, without running its initialisation."""
  model = TAE(**SMALL | fields)
  frame = jnp.zeros((1, 1, 2, 2, 3))
  shapes = unbox(jax.eval_shape(model.init, jax.random.key(0), frame)["params"])
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), jnp.float32), shapes)


@pytest.fixture
def image(tmp_path):
  """Parameters of an image autoencoder, the folder they were converted to, and a run of it."""
  params, folder, workdir = _params(0, temporal=False), tmp_path / "weights", tmp_path / "run"
  for path in (folder, workdir):
    path.mkdir()
  flat = flatten_paths(params)
  tensors.write(
    folder / converted.WEIGHTS, {p: (x.shape, np.dtype(np.float32)) for p, x in flat.items()},
    [(p, [np.asarray(x)]) for p, x in flat.items()],
  )  # fmt: skip
  described = {"format": converted.FORMAT, "kind": "autoencoder", "dtype": "float32"}
  described["model"] = SMALL | {"temporal": False}
  (folder / converted.CONFIG).write_text(json.dumps(described))
  saver = Checkpointer(workdir, name="image")
  saver.save(1, {"ema": {"autoencoder": params}}, data=None)
  saver.close()
  return params, {"weights": str(folder), "workdir": str(workdir)}


def _inflation(**origin):
  """What the experiment of the temporal autoencoder states, with an origin."""
  settings = configs.build(TrainConfig, tae.get_config().train).warm_start
  return dataclasses.replace(settings, **origin)


@pytest.mark.parametrize("kind", ["weights", "workdir"])
def test_a_temporal_autoencoder_starts_from_an_image_one(image, kind):
  params, origins = image
  initial = {"autoencoder": _params(1)}
  filled = warm_start(initial, _inflation(workdir=origins[kind]))
  before, after = flatten_paths(initial), flatten_paths(filled)
  given = {f"autoencoder/{path}": leaf for path, leaf in flatten_paths(params).items()}
  assert set(given) < set(after)
  for path, leaf in after.items():
    np.testing.assert_array_equal(leaf, given.get(path, before[path]), err_msg=path)
  for kept in set(after) - set(given):
    assert "/temporal/" in kept or "/time/" in kept


def test_converted_weights_take_the_place_and_type_of_the_target(image):
  params, origins = image
  mesh = make_mesh((1, 2, 1, 1))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
  target = jax.tree.map(jnp.zeros_like, params)
  target["decoder_norm"]["scale"] = jax.device_put(jnp.zeros(4, jnp.bfloat16), sharding)
  config = WarmStartConfig(workdir=origins["weights"], into="net/vae")
  scale = warm_start({"net": {"vae": target}}, config)["net"]["vae"]["decoder_norm"]["scale"]
  assert scale.sharding == sharding and scale.dtype == jnp.bfloat16
  np.testing.assert_array_equal(scale, params["decoder_norm"]["scale"].astype(jnp.bfloat16))


def test_converted_weights_grow_and_leftovers_are_told(image):
  params, origins = image
  target = {"autoencoder": _params(1, latent=3)}
  with pytest.raises(UserError) as caught:
    warm_start(target, _inflation(workdir=origins["weights"]))
  message = str(caught.value)
  assert f"warm start from {origins['weights']} leaves 3 parameters unsettled" in message
  assert "autoencoder/encoder_out/spatial/bias: saved float32[4], wanted float32[6]" in message
  grown = _inflation(
    workdir=origins["weights"],
    grow=(("decoder_in/spatial/kernel", "pad_input"), ("encoder_out", "interpolate")),
  )
  kernel = warm_start(target, grown)["autoencoder"]["decoder_in"]["spatial"]["kernel"]
  np.testing.assert_array_equal(kernel[:, :, :2], params["decoder_in"]["spatial"]["kernel"])
  assert not np.any(kernel[:, :, 2])
  with pytest.raises(UserError, match=" other/decoder_blocks_0_0/conv1.* not in this"):
    warm_start(target, _inflation(workdir=origins["weights"], into="other"))
  # By default they belong to the role that trains them.
  by_kind = dataclasses.replace(grown, into="")
  kernel = warm_start(target, by_kind)["autoencoder"]["decoder_in"]["spatial"]["kernel"]
  np.testing.assert_array_equal(kernel[:, :, :2], params["decoder_in"]["spatial"]["kernel"])


def test_an_origin_that_is_none_is_told(image, tmp_path):
  origins = image[1]
  target = {"autoencoder": _params(1)}
  (tmp_path / "weights" / converted.WEIGHTS).unlink()
  with pytest.raises(UserError, match="cannot be read"):
    warm_start(target, _inflation(workdir=origins["weights"]))
  assert not WarmStartConfig().origins


@pytest.mark.slow
def test_an_inflated_autoencoder_does_to_still_clips_what_the_image_one_did(tmp_path):
  common = {
    "channels": 8, "multipliers": (1, 1), "blocks": 1, "latent": 4, "groups": 4, "shortcut": True,
  }
  image = TAE(**common, patch=(1, 4, 4), temporal=False)
  video = TAE(**common, patch=(4, 4, 4))
  frame = jax.random.uniform(jax.random.key(1), (2, 1, 16, 16, 3), minval=-1.0, maxval=1.0)
  still = jnp.repeat(frame, 8, axis=1)
  noise = lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape)  # noqa: E731
  old = jax.tree.map(noise, unbox(jax.jit(image.init)(jax.random.key(0), frame)["params"]))
  saver = Checkpointer(tmp_path, name="tae_image")
  saver.save(3, {"params": {"autoencoder": old}}, data=None)
  saver.close()

  rules = tae.get_config("tiny").train.warm_start.to_dict() | {"workdir": str(tmp_path)}
  new = {"autoencoder": unbox(jax.jit(video.init)(jax.random.key(5), still)["params"])}
  new = warm_start(new, WarmStartConfig(**rules))["autoencoder"]
  wanted, latent, _ = jax.jit(image.apply)({"params": old}, frame)
  got, inflated, _ = jax.jit(video.apply)({"params": new}, still)
  assert inflated.shape == latent.shape and jnp.std(latent) > 0.1
  np.testing.assert_allclose(inflated, latent, atol=2e-5)
  np.testing.assert_allclose(got, jnp.repeat(wanted, 8, axis=1), atol=2e-5)
