"""The image autoencoder against diffusers on the same random weights, and inflated over time."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.sharding import unbox
from mg_jax.core.tree import count_params
from mg_jax.models import zoo
from mg_jax.models.codecs.inflate import inflate
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.weights import converted, layouts_autoencoder, published
from mg_jax.models.weights.kinds import Config

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

# Widths that grow, stay and shrink; frames that are not square.
CONFIGS = {
  "published ratios": {
    "block_out_channels": (8, 16, 32, 32), "layers_per_block": 2, "latent_channels": 16,
    "norm_num_groups": 4, "size": (32, 48),
  },
  "two levels": {
    "block_out_channels": (12, 36), "layers_per_block": 1, "latent_channels": 5,
    "norm_num_groups": 6, "size": (12, 10),
  },
  "deep, no attention": {
    "block_out_channels": (16, 16, 48), "layers_per_block": 3, "latent_channels": 8,
    "norm_num_groups": 16, "size": (16, 20), "mid_block_add_attention": False,
  },
  "uneven widths": {
    "block_out_channels": (16, 24, 20), "layers_per_block": 1, "latent_channels": 6,
    "norm_num_groups": 4, "size": (8, 12),
  },
  "one level": {
    "block_out_channels": (8,), "layers_per_block": 1, "latent_channels": 2,
    "norm_num_groups": 2, "size": (6, 5),
  },
}  # fmt: skip

# Compiling the others again over time tells nothing new.
INFLATED = ["two levels", pytest.param("published ratios", marks=pytest.mark.slow)]


NO_QUANTISATION = {"use_quant_conv": False, "use_post_quant_conv": False}


def reference(fields, device="cpu"):
  torch.manual_seed(0)
  levels = len(fields["block_out_channels"])
  with torch.device(device):
    model = diffusers.AutoencoderKL(
      down_block_types=("DownEncoderBlock2D",) * levels,
      up_block_types=("UpDecoderBlock2D",) * levels,
      scaling_factor=1.5305, shift_factor=0.0609, **NO_QUANTISATION,
      **{k: v for k, v in fields.items() if k != "size"},
    ).eval()  # fmt: skip
  with torch.no_grad():
    for name, p in model.named_parameters():
      spread = 0.1 if p.ndim < 2 else p[0].numel() ** -0.5
      p.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, spread)
  return model


def close(ours, theirs):
  """Whether arrays (B, T, H, W, C) and (B * T, C, H, W) agree to 1e-5 of the largest value."""
  theirs = theirs.permute(0, 2, 3, 1).reshape(ours.shape).numpy()
  assert np.abs(np.asarray(ours) - theirs).max() <= 1e-5 * np.abs(theirs).max()


def pixels(seed, shape):
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def frames_first(x):
  """(B, T, H, W, C) as torch's (B * T, C, H, W)."""
  return torch.tensor(np.asarray(x)).flatten(0, 1).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
  """pair(name): the reference, ours with the same weights, and a size of frames."""

  @functools.cache
  def make(name):
    fields = CONFIGS[name]
    folder = tmp_path_factory.mktemp("autoencoder")
    theirs = reference(fields)
    theirs.save_pretrained(folder / "theirs", max_shard_size="10KB")
    assert len(list((folder / "theirs").glob("*.safetensors"))) > 1, "is to be in shards"
    published.convert(folder / "theirs", folder / "ours", "autoencoder")
    described = json.loads((folder / "ours" / "config.json").read_text())
    assert (described["scaling"], described["shift"]) == (1.5305, 0.0609)
    return theirs, *converted.load(folder / "ours"), fields["size"]

  return make


def assert_same(model, params, video, theirs, *, seen, shown):
  """Ours on a clip against theirs on some of its frames, and on the latents of those.

  Args:
    model: ours.
    params: its parameters.
    video: (B, T', H', W', 3).
    theirs: the reference.
    seen: the frames that latents are to be of.
    shown: for each frame decoded, the latent that it is to show.
  """
  with torch.no_grad():
    posterior = theirs.encode(frames_first(video[:, seen])).latent_dist
  wanted = posterior.mean.permute(0, 2, 3, 1)
  latent = wanted.reshape(len(video), len(seen), *wanted.shape[1:]).numpy()

  @jax.jit
  def both(params, video, latent):
    encoded = model.apply({"params": params}, video, method="encode")
    frames = video.shape[1]
    # From the same latent, so that no error of the encoder hides or adds to one of the decoder.
    return *encoded, model.apply({"params": params}, latent, frames=frames, method="decode")

  mean, logvar, decoded = both(params, video, latent)
  assert mean.shape == latent.shape and decoded.shape == video.shape
  close(mean, posterior.mean)
  close(logvar, posterior.logvar)
  with torch.no_grad():
    close(decoded, theirs.decode(frames_first(latent[:, shown])).sample)


@pytest.mark.parametrize("name", CONFIGS)
def test_frames_are_encoded_and_decoded_as_images(pair, name):
  theirs, model, params, size = pair(name)
  video = pixels(0, (2, 3, *size, 3))
  assert_same(model, params, video, theirs, seen=[0, 1, 2], shown=[0, 1, 2])


@pytest.mark.parametrize("name", INFLATED)
def test_the_inflated_network_treats_a_frame_as_the_image_autoencoder(pair, name):
  theirs, model, params, size = pair(name)
  model = model.clone(temporal=True)
  params = inflate(params, model, key=jax.random.key(1))
  assert_same(model, params, pixels(1, (2, 1, *size, 3)), theirs, seen=[0], shown=[0])


@pytest.mark.parametrize("name", INFLATED)
def test_the_inflated_network_sees_the_first_frame_of_each_latent(pair, name):
  theirs, model, params, size = pair(name)
  model = model.clone(temporal=True)
  params = inflate(params, model, key=jax.random.key(1))
  step = model.factors[0]
  moving = pixels(2, (1, step + 1, *size, 3))
  # A still clip therefore has the latent of its frame, over and over.
  still = np.repeat(moving[:, :1], step + 1, axis=1)
  video = np.concatenate([moving, still])
  assert_same(model, params, video, theirs, seen=[0, step], shown=[0] * step + [1])


def test_the_published_size_has_as_many_parameters():
  fields = zoo.autoencoder("flux")
  widths = tuple(fields["channels"] * m for m in fields["multipliers"])
  theirs = reference(
    {
      "block_out_channels": widths, "layers_per_block": fields["blocks"],
      "latent_channels": fields["latent"], "norm_num_groups": fields["groups"],
    },
    device="meta",
  )  # fmt: skip
  frame = jax.ShapeDtypeStruct((1, 1, 8, 8, 3), jnp.float32)
  model = configs.build(TAE, fields)
  ours = jax.eval_shape(model.init, jax.random.key(0), frame)["params"]
  assert count_params(unbox(ours)) == sum(p.numel() for p in theirs.parameters())


class Malice:
  def __reduce__(self):
    return print, ("run",)


def test_torch_files_give_the_same_and_run_nothing(tmp_path, capsys):
  folder = tmp_path / "theirs"
  model = reference(CONFIGS["two levels"])
  model.save_pretrained(folder)
  published.convert(folder, tmp_path / "ours", "autoencoder")
  (folder / "diffusion_pytorch_model.safetensors").unlink()
  file = folder / "diffusion_pytorch_model.bin"
  torch.save(model.state_dict(), file)
  published.convert(folder, tmp_path / "again", "autoencoder")
  weights = [(tmp_path / name / converted.WEIGHTS).read_bytes() for name in ("ours", "again")]
  assert weights[0] == weights[1]
  torch.save({"encoder.conv_in.weight": Malice()}, file)
  with pytest.raises(UserError, match="refused"):
    published.convert(folder, tmp_path / "none", "autoencoder")
  assert "run" not in capsys.readouterr().out


def test_an_older_autoencoder_is_refused(tmp_path):
  diffusers.AutoencoderKL(block_out_channels=(32,), latent_channels=4).save_pretrained(tmp_path)
  with pytest.raises(UserError, match="use_quant_conv"):
    published.convert(tmp_path, tmp_path / "ours", "autoencoder")


def test_every_field_of_the_published_config_is_known(tmp_path, caplog):
  diffusers.AutoencoderKL(block_out_channels=(32,), **NO_QUANTISATION).save_config(tmp_path)
  config = json.loads((tmp_path / "config.json").read_text())
  layouts_autoencoder.read(Config(config, "config.json"), ())
  assert not caplog.records
