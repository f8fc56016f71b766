"""What the samplers give for fixed seeds, so that a refactoring that moves a bit is seen.

The networks are small and filled with random values; a golden holds a few values of each result.
"""

import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core import config as configs
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.encoders.streams import open_streams
from mg_jax.models.generator import Generator
from mg_jax.sampling.pipeline import TextToVideo
from mg_jax.sampling.settings import Settings
from mg_jax.sampling.sound_request import Request
from tests.sampling.networks import RATE, filled, frames, soundtrack
from tests.train import tiny

_GOLDEN = Path(__file__).resolve().parents[1] / "goldens/samples.json"
_COUNT = 24


@pytest.fixture(scope="module")
def video(tmp_path_factory):
  config = tiny.t2v(tmp_path_factory.mktemp("run"))
  model = configs.build(Generator, config["model"], where="model")
  autoencoder = TAE(channels=4, multipliers=(1,), patch=(4, 4, 4), latent=2, groups=2)
  cond = {"text": {"ids": jnp.zeros((1, 12), jnp.int32), "mask": jnp.ones((1, 12), bool)}}
  latent = jnp.zeros((1, 1, 4, 4, 2))
  params = filled(model, latent, jnp.zeros(1), cond)
  decoder = filled(autoencoder, jnp.zeros((1, 4, 16, 16, 3)), seed=1)
  return TextToVideo(
    model=model, params=params, autoencoder=autoencoder, autoencoder_params=decoder,
    mean=np.full(2, 0.1, np.float32), std=np.full(2, 0.5, np.float32),
    settings=Settings(frames=8, height=16, width=16, fps=8, steps=4, guidance=3.0), batch=2,
    text=open_streams(config["text"], routes=model.routes(), trained=model.text_encoders()),
  )  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
  return soundtrack(tmp_path_factory.mktemp("run"))


VIDEOS = {
  "video": {}, "video, midpoint": {"method": "midpoint"}, "video, linear": {"schedule": "linear"},
  "video, unguided": {"guidance": 1.0}, "video, null": {"guidance": 0.0}, "image": {"frames": 1},
}  # fmt: skip
_KNOWN = 0.5 * np.sin(np.arange(round(2.4 * RATE)) / 20).astype(np.float32)
SOUNDS = {
  "sound of text": (Request(0.8, captions=("a bell rings",)), {}),
  "sound of video": (Request(0.8, video=frames), {"method": "euler"}),
  "candidates": (Request(0.8, video=frames), {"candidates": 2}),
  "windows": (Request(2.4, captions=("rain",), video=frames), {}),
  "segments": (Request(2.4, video=frames), {"long_form": "autoregressive"}),
  "beam": (Request(2.4), {"long_form": "autoregressive", "candidates": 2, "beam": 1}),
  "infill": (Request(2.4, known=_KNOWN, keep=((0.0, 0.9), (1.5, 2.4)), video=frames), {}),
}  # fmt: skip


def _compare(name, found, *, within):
  flat = np.asarray(found, np.float64).ravel()
  at = np.linspace(0, flat.size - 1, _COUNT).round().astype(int)
  record = {
    "shape": list(np.shape(found)), "mean": flat.mean(), "std": flat.std(),
    "values": flat[at].tolist(),
  }  # fmt: skip
  golden = json.loads(_GOLDEN.read_text()) if _GOLDEN.exists() else {}
  if os.environ.get("MG_UPDATE_GOLDENS"):
    rounded = record | {
      key: np.round(record[key], 6).tolist() for key in ("mean", "std", "values")
    }  # fmt: skip
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in (golden | {name: rounded}).items()]
    _GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return
  want = golden[name]
  assert record["shape"] == want["shape"]
  np.testing.assert_allclose(record["values"], want["values"], atol=within)
  np.testing.assert_allclose(
    [record["mean"], record["std"]], [want["mean"], want["std"]], atol=within / 4
  )


@pytest.mark.parametrize("name", VIDEOS)
def test_videos_of_fixed_seeds(name, video):
  clips = video(["a red ball", "", "a blue box"], seeds=[0, 1, 2], **VIDEOS[name])
  _compare(name, clips, within=1)  # the last bit of a pixel may differ between processors


@pytest.mark.parametrize("name", SOUNDS)
def test_sounds_of_fixed_seeds(name, sound):
  request, settings = SOUNDS[name]
  _compare(name, sound(request, **settings).wave, within=1e-4)
