"""Stages that follow each other: warm starts between them, and what each one trains."""


import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.sharding import unbox
from mg_jax.core.tree import fingerprint, flatten_paths
from mg_jax.data import tensors
from mg_jax.models import published
from mg_jax.models.clip import CLIP
from mg_jax.models.tae import TAE
from mg_jax.objectives.contrastive import Contrastive
from mg_jax.train import experiment, export
from mg_jax.train.reconstruct_sound import reconstruct_sound
from mg_jax.train.warmstart import interpolate
from mg_jax.train.writer import FILE as METRICS
from tests.train import tiny


def _moving(params):
  """Paths that the long-prompt stage trains: positions and all biases of the text tower."""
  return {p for p in params if p == "text/positions" or p.startswith("text/") and "bias" in p}


@pytest.mark.parametrize("arg", [None, "tiny"])
def test_the_long_prompt_stage_trains_positions_and_biases_of_the_text(arg):
  config = tiny.load("clip_long", arg)
  objective = Contrastive(configs.build(CLIP, config.model))
  size, length = config.data.height, config.text.text.length
  text = {name: np.zeros((2, length), kind) for name, kind in (("ids", np.int32), ("mask", bool))}
  batch = {"image": np.zeros((2, size, size, 3), np.uint8), "text": text}
  params = flatten_paths(experiment.abstract_params(objective, batch))
  params = {path.removeprefix("model/"): leaf for path, leaf in params.items()}
  frozen = {p for p in params if any(re.search(f, p) for f in config.optim.freeze)}
  assert set(params) - frozen == _moving(params)
  assert params["text/positions"].shape[0] == length == 256
  # Positions, the biases of six matrices and two norms of a layer, that of the last norm.
  assert len(_moving(params)) == 10


def _lines(folder):
  return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


@pytest.mark.slow
def test_a_tiny_clip_trains_and_then_reads_long_captions(tmp_path):
  """The second stage grows the positions, and moves them and the biases of the text alone."""
  experiment.run(tiny.clip(tmp_path), str(tmp_path / "clip"))
  short = {"recall/short/image_to_text", "recall/short/text_to_image"}
  lines = [line for line in _lines(tmp_path / "clip") if short <= set(line)]
  assert [line["step"] for line in lines] == [0, 2] and lines[1]["recall/short/n"] == 3
  assert any("eval/loss" in line for line in _lines(tmp_path / "clip"))

  config = tiny.clip(tmp_path, "clip_long")
  with pytest.raises(UserError, match="this stage grows a finished one"):
    experiment.run(config, str(tmp_path / "long"))
  config["train"]["warm_start"]["workdir"] = str(tmp_path / "clip")
  experiment.run(config, str(tmp_path / "long"))
  both = short | {"recall/long/image_to_text", "recall/long/text_to_image"}
  found = [set(line) & both for line in _lines(tmp_path / "long") if line["step"] == 0]
  assert set().union(*found) == both, "before the first step, what growth alone gives"

  before, after = (
    flatten_paths(export.load_role(tmp_path / name, "model").params) for name in ("clip", "long")
  )
  moving = _moving(after)
  for path in set(after) - moving:
    np.testing.assert_array_equal(after[path], before[path], err_msg=path)
  grown = interpolate(np.asarray(before["text/positions"]), (256, 16))
  moved = np.abs(after["text/positions"] - grown)
  assert 0 < moved.max() < 0.1, "it started from the grown table"
  # Keys' biases have no effect on a softmax, and so no gradient worth the name.
  for path in moving - {"text/positions", "text/layers/key/bias"}:
    assert np.any(after[path] != before[path]), path


@pytest.mark.slow
def test_an_autoencoder_trains_from_published_weights(tmp_path):
  config = tiny.tae(tmp_path)
  image = {"channels": 4, "multipliers": [1, 2], "blocks": 1, "latent": 2, "groups": 2}
  config["model"].update(image, patch=[1, 1, 1])
  image |= {"temporal": False, "attention": False}
  frame = jnp.zeros((1, 1, 2, 2, 3))
  params = unbox(configs.build(TAE, image).init(jax.random.key(5), frame)["params"])
  flat = {path: np.asarray(leaf) for path, leaf in flatten_paths(params).items()}
  folder = tmp_path / "weights"
  folder.mkdir()
  tensors.write(
    folder / published.WEIGHTS, {path: (x.shape, x.dtype) for path, x in flat.items()},
    [(path, [x]) for path, x in flat.items()],
  )  # fmt: skip
  described = {"format": published.FORMAT, "kind": "autoencoder", "dtype": "float32"}
  (folder / published.CONFIG).write_text(json.dumps(described | {"model": image}))
  config["train"].update(steps=1)
  config["train"]["warm_start"]["weights"] = str(folder)
  config["optim"].update(lr=1e-9, weight_decay=0.0)  # so that the start can be seen at the end
  experiment.run(config, str(tmp_path / "run"))
  trained = flatten_paths(export.load_role(str(tmp_path / "run"), "autoencoder").params)
  for path, leaf in flat.items():
    np.testing.assert_allclose(trained[path], leaf, atol=1e-6)
  assert set(trained) > set(flat)


@pytest.mark.slow
def test_the_three_stages_of_the_autoencoder_follow_each_other_and_resume_exactly(tmp_path):
  arg, folders = "tiny,size=16,frames=8", {}
  for name in ("tae_image", "tae", "tae_gan", "again"):
    config = tiny.load("tae_gan" if name == "again" else name, arg)
    config.mesh = (1, 1, 1, 1)
    config.model.update(channels=8, latent=4, groups=4)
    config.data.update(cache=str(tmp_path / "data"), clips=6, held_out=3, global_batch=2)
    config.train.update(steps=2, log_every=1)
    config.eval.update(batch=2, previews=0)
    before = {"tae": "tae_image", "tae_gan": "tae", "again": "tae"}.get(name)
    if before:
      config.train.warm_start.workdir = folders[before]
    if name == "tae":
      config.data.update(lengths=(5, 8), image_weight=1, video_weight=3)
    if before == "tae":
      config.discriminator.update(channels=4, groups=2)
      config.train.steps = 4
    folders[name] = str(tmp_path / name)
    if name == "again":  # the schedule is constant, so that a run may be prolonged
      config.train.steps = 2
      assert experiment.run(config, folders[name]).step == 2
      config.train.steps = 4
    result = experiment.run(config, folders[name])
    found = json.loads((tmp_path / name / "latent_statistics.json").read_text())
    assert found["step"] == result.step and len(found["mean"]) == 4
    if name == "tae_gan":
      whole = result.state
  assert set(whole.params) == {"autoencoder", "discriminator"}
  assert fingerprint(whole.params) == fingerprint(result.state.params)
  assert fingerprint(whole.opt_state) == fingerprint(result.state.opt_state)


@pytest.mark.slow
def test_a_tiny_codec_of_sound_trains_resumes_and_reconstructs(tmp_path, capsys):
  pytest.importorskip("matplotlib")
  config = tiny.sound(tmp_path)
  whole = experiment.run(config, str(tmp_path / "whole"))
  assert set(whole.state.params) == {"autoencoder", "critics"}
  config["train"]["steps"] = 2
  experiment.run(config, str(tmp_path / "parts"))
  config["train"]["steps"] = 4
  again = experiment.run(config, str(tmp_path / "parts"))
  assert fingerprint(again.state.params) == fingerprint(whole.state.params)
  assert fingerprint(again.state.opt_state) == fingerprint(whole.state.opt_state)

  [line] = [row for row in _lines(tmp_path / "whole") if "eval/mel" in row and row["step"] == 4]
  assert {"eval/mel", "eval/stft", "eval/si_sdr"} <= set(line)
  found = json.loads((tmp_path / "whole" / "latent_statistics.json").read_text())
  assert found["step"] == 4 and len(found["mean"]) == len(found["std"]) == 3
  names = {path.name for path in (tmp_path / "whole" / "previews").iterdir()}
  assert {"original-00.wav", "step-0000004-00.wav", "step-0000004.png"} <= names

  codec = export.load_codec(tmp_path / "whole")
  sound = next((tmp_path / "sounds").iterdir())
  report = reconstruct_sound(codec, sound, tmp_path / "out.wav")
  assert report["latents"] == 16_000 * 3 // 80 and np.isfinite(report["mel"])
  with pytest.raises(UserError, match="is a run of wave_autoencoding; give one of autoencoding"):
    export.load_autoencoder(tmp_path / "whole")


def test_sound_of_another_rate_than_the_codec_is_told(tmp_path):
  config = tiny.sound(tmp_path)
  config["model"]["sample_rate"] = 48_000
  with pytest.raises(UserError, match="sample_rate is 48000 and data.rate 16000"):
    experiment.run(config, str(tmp_path / "run"))
