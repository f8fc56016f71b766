"""Generators that read frozen text encoders: cached features and live ones train the same model."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import t2v_256, tae
from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.sharding import unbox
from mg_jax.data.sources.recipe import latent_sources
from mg_jax.inference.load import load_text_to_video
from mg_jax.models.encoders.t5 import T5Encoder
from mg_jax.models.weights import converted, published
from mg_jax.stages import experiment
from mg_jax.train.writer import FILE as METRICS

T5 = {"vocab": 384, "width": 8, "layers": 1, "heads": 2, "head_dim": 4, "mlp_dim": 8}
SMALL = {"width": 16, "layers": 1, "heads": 1, "mlp_dim": 16}


def _save_t5(folder, seed):
  """A converted folder of a byte-level T5 with random weights."""
  model: nn.Module = T5Encoder(**T5)
  ids, mask = jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
  params = unbox(jax.jit(model.init)(jax.random.key(seed), ids, mask)["params"])
  published.save(folder, "t5", T5, params)
  return str(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """A trained autoencoder and the weights of a frozen encoder."""
  root = tmp_path_factory.mktemp("runs")
  config = tae.get_config("tiny,size=16,frames=4")
  config.mesh = (1, 1, 1, 1)
  config.model.update(
    channels=4, multipliers=(1,), patch=(4, 4, 4), latent=2, groups=2, attention=False,
    shortcut=False,
  )
  config.data.update(cache=str(root / "data"), clips=6, held_out=3, global_batch=2)
  config.train.update(steps=1, ema=0.0)
  config.eval.update(batch=2, previews=0)
  experiment.run(config, str(root / "tae"))
  _save_t5(root / "t5", 0)
  return root


def _config(root, **text):
  config = t2v_256.get_config("tiny,size=16,frames=4")
  config.mesh = (1, 1, 1, 1)
  config.autoencoder = str(root / "tae")
  config.model.dit.update(SMALL, channels=2, patch=(1, 1, 1), max_thw=(2, 4, 4))
  config.model.dit.routes.text.features = 16
  config.model.dit.routes.ul2 = {"kind": "cross", "features": 8}
  config.model.encoders.text.update(SMALL, head_dim=8)
  config.text.text.length = 12
  config.text.ul2 = {"encoder": str(root / "t5"), "length": 20} | text
  config.objective.drop.ul2 = 0.3
  config.data.update(cache=str(root / "data"), clips=6, held_out=3, global_batch=2, variants=1)
  config.train.update(steps=3, log_every=1)
  config.eval.update(batch=2, previews=0, every=3)
  config.sampling.update(steps=2)
  return configs.to_dict(config)


def _numbers(folder):
  lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
  names = ("model/loss", "model/grad_norm", "eval/fm_loss")
  return [(line["step"], name, line[name]) for line in lines for name in names if name in line]


def test_cached_and_live_encoders_train_the_same_model(root, tmp_path):
  for cache in (True, False):
    experiment.run(_config(root, cache=cache), str(tmp_path / str(cache)))
  cached, live = (_numbers(tmp_path / name) for name in ("True", "False"))
  assert len(cached) == 7 and [n[:2] for n in cached] == [n[:2] for n in live]
  np.testing.assert_allclose([n[2] for n in cached], [n[2] for n in live], rtol=2e-5)
  records = [
    list(latent_sources(tmp_path / name / "latents", "train", "video").values())[0][0]
    for name in ("True", "False")
  ]
  names = {"text/ul2/0", "text/ul2/1"}  # the caption and its variant
  assert names <= set(records[0]) and not names & set(records[1])
  clips = [
    load_text_to_video(tmp_path / name, batch=1)(["a red star"], seeds=[0])
    for name in ("True", "False")
  ]
  assert np.abs(clips[0].astype(int) - clips[1].astype(int)).max() <= 1


def test_data_encoded_ahead_is_what_training_reads(root, tmp_path, monkeypatch):
  config = _config(root) | {"latents": str(tmp_path / "shared")}
  folder, clips = experiment.encode_data(config, str(tmp_path / "encoding"))
  assert folder == str(tmp_path / "shared") and clips == {"train": 6, "validation": 3}
  loaded = []
  load = converted.load
  monkeypatch.setattr(converted, "load", lambda *a, **kw: loaded.append(a) or load(*a, **kw))
  experiment.run(config, str(tmp_path / "run"))
  assert not loaded, "training with cached features loads no encoder"
  assert not (tmp_path / "run" / "latents").exists()


def test_features_of_other_weights_are_refused(root, tmp_path):
  config = _config(root)
  experiment.encode_data(config, str(tmp_path))
  config["text"]["ul2"]["encoder"] = _save_t5(tmp_path / "other", 1)
  with pytest.raises(UserError, match="encoded with another text"):
    experiment.run(config, str(tmp_path))


def test_only_a_generators_data_is_encoded(tmp_path):
  with pytest.raises(UserError, match="'autoencoding' trains on clips"):
    experiment.encode_data(tae.get_config("tiny"), str(tmp_path))
