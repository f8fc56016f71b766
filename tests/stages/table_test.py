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
from mg_jax.data.sources import soundtracks
from mg_jax.evaluation.reconstruct_sound import reconstruct_sound
from mg_jax.inference import load
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.encoders.clip import CLIP
from mg_jax.models.weights import converted
from mg_jax.objectives.base import Objective
from mg_jax.objectives.contrastive import Contrastive
from mg_jax.stages import experiment, soundtrack
from mg_jax.stages.base import Stage, build_section, check_model
from mg_jax.stages.table import STAGES, stage_of
from mg_jax.train.growth import interpolate
from mg_jax.train.runs import load_role
from mg_jax.train.writer import FILE as METRICS
from tests.models.encoders import vision_test
from tests.precompute import sounds_test as encode_sound_test
from tests.train import streams_test, tiny


@pytest.mark.parametrize("name", tiny.NAMES)
def test_a_stage_knows_what_its_recipes_train_and_the_shape_of_their_batches(name, tmp_path):
  config = tiny.smallest(tmp_path, name)
  stage = stage_of(config)
  assert isinstance(stage, Stage)
  data = build_section(stage.data, config, "data")
  objective = stage.objective(config, data)
  assert isinstance(objective, Objective)
  batch, clip = stage.abstract_batch(config, data)
  assert len(clip) == 3 and all(size > 0 for size in clip)
  [rows] = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
  assert rows in {data.global_batch, getattr(data, "image_batch", 0)}
  assert check_model(objective, batch).keys() == set(objective.roles)
  if not stage.encodes:
    with pytest.raises(UserError, match=f"stage '{config['stage']}' trains on clips"):
      stage.encode(config, data, None, "")


def test_every_stage_has_a_recipe_and_those_that_are_none_are_named():
  assert {tiny.load(name).stage for name in tiny.NAMES} == STAGES.keys()
  for config in ({"stage": "dreaming"}, {"stage": ""}, {}):
    with pytest.raises(UserError, match="is unknown; known are autoencoding, wave_auto.*") as told:
      stage_of(config)
    assert "\n" not in str(told.value)


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
  with pytest.raises(UserError, match="starts from a run of experiments/.*warm_start names none"):
    experiment.run(config, str(tmp_path / "long"))
  config["train"]["warm_start"]["workdir"] = str(tmp_path / "clip")
  experiment.run(config, str(tmp_path / "long"))
  both = short | {"recall/long/image_to_text", "recall/long/text_to_image"}
  found = [set(line) & both for line in _lines(tmp_path / "long") if line["step"] == 0]
  assert set().union(*found) == both, "before the first step, what growth alone gives"

  before, after = (
    flatten_paths(load_role(tmp_path / name, "model").params) for name in ("clip", "long")
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
    folder / converted.WEIGHTS, {path: (x.shape, x.dtype) for path, x in flat.items()},
    [(path, [x]) for path, x in flat.items()],
  )  # fmt: skip
  described = {"format": converted.FORMAT, "kind": "autoencoder", "dtype": "float32"}
  (folder / converted.CONFIG).write_text(json.dumps(described | {"model": image}))
  config["train"].update(steps=1)
  config["train"]["warm_start"]["workdir"] = str(folder)
  config["optim"].update(lr=1e-9, weight_decay=0.0)  # so that the start can be seen at the end
  experiment.run(config, str(tmp_path / "run"))
  trained = flatten_paths(load_role(str(tmp_path / "run"), "autoencoder").params)
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

  codec = load.load_codec(tmp_path / "whole")
  sound = next((tmp_path / "sounds").iterdir())
  report = reconstruct_sound(codec, sound, tmp_path / "out.wav")
  assert report["latents"] == 16_000 * 3 // 80 and np.isfinite(report["mel"])
  with pytest.raises(UserError, match="is a run of wave_autoencoding; give one of autoencoding"):
    load.load_autoencoder(tmp_path / "whole")


def test_sound_of_another_rate_than_the_codec_is_told(tmp_path):
  config = tiny.sound(tmp_path)
  config["model"]["sample_rate"] = 48_000
  with pytest.raises(UserError, match="sample_rate is 48000 and data.rate 16000"):
    experiment.run(config, str(tmp_path / "run"))


@pytest.fixture
def coded(monkeypatch):
  """Stands in for a trained codec."""
  codec = encode_sound_test.codec()
  monkeypatch.setattr(soundtrack, "trained_codec", lambda config, workdir: (codec, 7))
  return codec


@pytest.mark.slow
def test_a_model_of_soundtracks_trains_resumes_and_is_finetuned(tmp_path, coded):
  config = tiny.soundtrack(tmp_path) | {"latents": str(tmp_path / "latents")}
  longer = config | {"train": config["train"] | {"steps": 4}}
  whole = experiment.run(longer, str(tmp_path / "whole"))
  experiment.run(config, str(tmp_path / "parts"))
  again = experiment.run(longer, str(tmp_path / "parts"))
  for name in ("params", "opt_state", "ema"):
    assert fingerprint(getattr(again.state, name)) == fingerprint(getattr(whole.state, name))
  lines = _lines(tmp_path / "parts")
  [line] = [row for row in lines if "eval/fm_loss" in row and row["step"] == 4]
  assert np.isfinite(line["eval/fm_loss"])
  moved = flatten_paths(whole.state.params["model"])
  assert {"encoder_video", "encoder_text", "dit"} <= {path.split("/")[0] for path in moved}

  tuned = tiny.soundtrack(tmp_path, "soundtrack_finetune") | {"latents": config["latents"]}
  with pytest.raises(UserError, match="starts from a run of experiments/.*warm_start names none"):
    experiment.run(tuned, str(tmp_path / "tuned"))
  tuned["train"]["warm_start"]["workdir"] = str(tmp_path / "whole")
  tuned["optim"]["lr"] = 0.0
  result = experiment.run(tuned, str(tmp_path / "tuned"))
  # At a rate of zero the weights stay the averaged ones that it started from.
  assert fingerprint(result.state.params["model"]) == fingerprint(whole.state.ema["model"])


@pytest.mark.slow
def test_one_device_and_eight_train_the_same_soundtracks(tmp_path, coded):
  found = {}
  for mesh in ([1, 1, 1, 1], [2, 2, 1, 2]):
    config = tiny.soundtrack(tmp_path, global_batch=4) | {"mesh": mesh}
    config |= {"latents": str(tmp_path / "latents")}
    config["eval"]["batch"] = 4
    experiment.run(config, str(tmp_path / str(mesh)))
    found[str(mesh)] = [
      row["model/loss"] for row in _lines(tmp_path / str(mesh)) if "model/loss" in row
    ]
  one, eight = found.values()
  assert len(one) == 2
  np.testing.assert_allclose(one, eight, rtol=1e-5)


@pytest.mark.slow
def test_soundtracks_with_frozen_encoders_train_on_their_features(tmp_path, coded):
  vision_test.save(tmp_path / "clip")
  streams_test._save_t5(tmp_path / "t5", 0)
  config = tiny.soundtrack(tmp_path, size=8) | {"vision": str(tmp_path / "clip")}
  config["model"]["encoders"] = {}
  config["model"]["dit"]["routes"]["video"]["features"] = 6
  config["model"]["dit"]["routes"]["text"]["features"] = streams_test.T5["width"]
  for cache in (True, False):
    read = {"encoder": str(tmp_path / "t5"), "cache": cache, "tokenizer": "bytes"}
    config["text"]["text"] |= read
    workdir = tmp_path / f"run{cache}"
    if cache:
      folder, clips = experiment.encode_data(config, str(workdir))
      assert clips == {"train": 9, "validation": 3}
      record = soundtracks.record_sources(folder, "train")["video"][0]
      assert {"features", "text/text/0"} <= set(record)
    assert experiment.run(config, str(workdir)).step == 2


@pytest.mark.parametrize(
  "path, value, words",
  [
    ("model.dit.channels", 5, "the model has channels=5, the latent 3"),
    ("model.dit.max_thw", [24, 1, 1], "24"),
    ("data.size", 32, "the vision tower takes frames of 16 pixels, but data.size is 32"),
    ("data.chunks", [], "data.chunks is"),
    ("data.bogus", 1, "data has no field 'bogus'"),
    ("objective.masked", [0.9, 0.1], "masked is"),
    ("model.encoders.video.heads", 3, "not divisible by 3 heads"),
    ("vision", "nowhere", "nowhere"),
  ],
)
def test_soundtracks_that_cannot_be_are_refused_before_sound_is_encoded(
  path, value, words, tmp_path, coded
):
  config = node = tiny.soundtrack(tmp_path)
  *parents, name = path.split(".")
  for parent in parents:
    node = node[parent]
  node[name] = value
  with pytest.raises(UserError, match=words):
    experiment.run(config, str(tmp_path / "run"))
  assert not (tmp_path / "run" / "latents").exists()


def test_a_soundtrack_without_a_codec_is_told(tmp_path):
  config = tiny.soundtrack(tmp_path) | {"codec": ""}
  with pytest.raises(UserError, match="codec is empty; train one first"):
    experiment.run(config, str(tmp_path / "run"))


@pytest.mark.slow
def test_a_codec_is_trained_and_then_its_latents_are(tmp_path):
  codec = tiny.load("dacvae", "tiny,toy")
  codec.mesh = (1, 1, 1, 1)
  codec.model.update(channels=2, hidden=4, decoder_channels=16, latent=3)
  codec.data.update(cache=str(tmp_path / "data"), clips=4, held_out=2, global_batch=2)
  codec.train.update(steps=1)
  codec.eval.update(batch=2, previews=0)
  experiment.run(codec, str(tmp_path / "codec"))
  workdir = tmp_path / "run"
  assert experiment.run(tiny.soundtrack(tmp_path), str(workdir)).step == 2
  manifest = json.loads((workdir / "latents" / "manifest.json").read_text())["metadata"]
  assert manifest["codec"] == str(tmp_path / "codec") and manifest["step"] == 1
  assert manifest["fingerprint"] == load.load_codec(tmp_path / "codec").fingerprint
