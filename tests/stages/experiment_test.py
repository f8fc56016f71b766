"""Experiments: every config builds, every mistake in one is named, and tiny ones run."""

import copy
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.core.tree import count_params
from mg_jax.data.records import RecordWriter
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.data.sources.recipe import clip_feed
from mg_jax.data.sources.sound_recipe import SoundConfig
from mg_jax.data.sources.soundtracks import SoundtrackConfig
from mg_jax.inference import load
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.codecs.discriminators import PatchDiscriminator
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.codecs.wave_critics import WaveCritics
from mg_jax.models.encoders.clip import CLIP
from mg_jax.models.generator import Generator
from mg_jax.objectives.autoencoding import Autoencoding, AutoencodingWeights
from mg_jax.objectives.contrastive import Contrastive
from mg_jax.objectives.flow_matching import FlowMatching
from mg_jax.objectives.sound_flow import SoundFlow
from mg_jax.objectives.wave_autoencoding import WaveWeights
from mg_jax.sampling.settings import Settings
from mg_jax.sampling.sound_request import SoundSettings
from mg_jax.stages import experiment, text_to_video
from mg_jax.stages.experiment import EvalConfig, Experiment
from mg_jax.train import flops
from mg_jax.train.loop import TrainConfig
from mg_jax.train.optim import OptimConfig
from mg_jax.train.runs import Role
from mg_jax.train.writer import FILE as METRICS
from tests.train import tiny
from tests.train.tiny import NAMES

COMMON = {"data": DataConfig, "optim": OptimConfig, "train": TrainConfig, "eval": EvalConfig}
SECTIONS = {
  "wave_autoencoding": COMMON | {
    "model": DACVAE, "objective": WaveWeights, "data": SoundConfig, "critics": WaveCritics,
  },
  "autoencoding": COMMON | {"model": TAE, "objective": AutoencodingWeights},
  "flow_matching": COMMON | {
    "model": Generator, "objective": FlowMatching, "sampling": Settings,
  },
  "contrastive": COMMON | {"model": CLIP, "objective": Contrastive},
  "soundtrack": COMMON | {
    "model": Generator, "objective": SoundFlow, "data": SoundtrackConfig,
    "sampling": SoundSettings,
  },
}  # fmt: skip
FREE = {"dtype", "guidance"}  # of several types, with checks of their own


@pytest.fixture
def cached(tmp_path, monkeypatch):
  """Stands in for a trained autoencoder and the encoding of clips with it."""
  fields = tiny.tae(tmp_path)["model"]
  shape = configs.build(TAE, fields).latent_shape(4, 16, 16)
  encoded = []

  def encode(
    data, model, params, folder, *, origin, step, text, conditions, batch, workdir
  ):
    del conditions, workdir
    for split, count in (("train", 6), ("validation", 3)):
      for kind in data.kinds:
        writer = RecordWriter(Path(folder) / split / kind / "4x16x16", shards=1, compress=False)
        latent = np.ones(shape, np.float32)
        record = {"latent": latent, "fps": 8.0, "captions": ["a red star"]}
        writer.write_shard(0, [record] * count)
        writer.finish()
    encoded.append(origin)
    metadata = {"mean": [0.0] * shape[-1], "std": [1.0] * shape[-1]}
    (Path(folder) / "manifest.json").write_text(json.dumps({"metadata": metadata}))
    return metadata

  monkeypatch.setattr(text_to_video, "encode", encode)
  model = configs.build(TAE, fields)
  clip = jax.ShapeDtypeStruct((2, 4, 16, 16, 3), np.uint8)
  shapes = experiment.abstract_params(Autoencoding(model), {"video": clip})
  role = Role(shapes["autoencoder"], {"model": fields}, 1, "digest")
  for module in (text_to_video, load):
    monkeypatch.setattr(module, "load_role", lambda folder, name, step=None, **how: role)
  return encoded


@pytest.mark.parametrize("arg", [None, "tiny"])
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_builds_and_prints(name, arg):
  config = tiny.load(name, arg)
  plain = configs.to_dict(config)
  assert plain["train"]["experiment"] == name
  for section, cls in SECTIONS[plain["stage"]].items():
    extra = {"model": None} if cls in (FlowMatching, SoundFlow, Contrastive) else {}
    # With several roles "optim" has a section for each.
    by_role = section == "optim" and {"discriminator", "critics"} & set(plain)
    for values in plain[section].values() if by_role else [plain[section]]:
      configs.build(cls, values, where=section, **extra)
  if "discriminator" in plain:
    configs.build(PatchDiscriminator, plain["discriminator"])
    assert set(plain["optim"]) == {"autoencoder", "discriminator"}
  assert json.loads(experiment.describe(config)) == plain
  if plain["stage"] == "wave_autoencoding":
    assert set(plain["optim"]) == {"autoencoder", "critics"}
    assert plain["data"]["source"] == "folder" and plain["model"]["sample_rate"] == 48_000
  else:
    assert (plain["data"]["source"] == "toy") == (arg == "tiny")
  if plain["stage"] == "flow_matching":
    assert set(plain["objective"]["drop"]) - {"joint"} <= set(plain["model"]["dit"]["routes"])
    for side in ("height", "width"):
      assert plain["sampling"][side] == plain["data"][side]


def test_a_later_phase_refuses_an_empty_workdir(tmp_path, cached):
  config = tiny.t2v(tmp_path) | {}
  config["train"]["phase"] = 2
  with pytest.raises(UserError, match="phase 2 of t2v_256 goes on from phase 1.*train.resume=DIR"):
    experiment.run(config, str(tmp_path / "run"))
  assert not cached


def test_random_parameters_are_refused_or_logged(tmp_path, cached, caplog):
  """Stages that start from another one; `:tiny` may do without."""
  config = tiny.t2v(tmp_path)
  config["train"]["warm_start"]["required"] = True
  words = "t2v_256 starts from a run of experiments/t2i_256.py.*workdir=DIR.*required=false"
  with pytest.raises(UserError, match=words):
    experiment.run(config, str(tmp_path / "run"))
  assert not cached
  config["train"]["warm_start"]["required"] = False
  config["train"]["warm_start"]["more"] = {"face": {"after": "a CLIP", "required": True}}
  words = "t2v_256 starts from a CLIP, and config train.warm_start.more.face names none: give its "
  with pytest.raises(UserError, match=f"{words}run with --config.train.warm_start.more.face.workd"):
    experiment.run(config, str(tmp_path / "run"))
  config["train"]["warm_start"]["more"] = {}
  config["autoencoder"] = ""
  with pytest.raises(UserError, match="config autoencoder is empty"):
    experiment.run(config, str(tmp_path / "run"))
  assert "t2v_256 starts from random parameters; to start from a run of" in caplog.text


@pytest.mark.parametrize("name", NAMES)
def test_unknown_arguments_are_named(name):
  with pytest.raises(UserError, match="'foo' is unknown"):
    tiny.load(name, "tiny,foo=3")


def test_finetuning_has_no_phases():
  with pytest.raises(UserError, match="t2v_sft has no phase 4"):
    tiny.load("t2v_sft", "phase=4")


def _wrong(value):
  """A value of another type than a config's value, or None where any type may stand."""
  if isinstance(value, bool):
    return "maybe"
  if isinstance(value, (int, float)):
    return "abc"
  if isinstance(value, str):
    return 3
  return 3 if isinstance(value, (list, dict)) else None


@pytest.mark.parametrize("make", [tiny.tae, tiny.t2v, tiny.clip], ids=["tae", "t2v", "clip"])
def test_every_field_of_another_type_is_named(make, tmp_path, cached):
  good = make(tmp_path)
  tried = 0
  for section in SECTIONS[good["stage"]]:
    for field, value in good[section].items():
      if field in FREE or _wrong(value) is None:
        continue
      bad = copy.deepcopy(good)
      bad[section][field] = _wrong(value)
      with pytest.raises(UserError) as caught:
        experiment.run(bad, str(tmp_path / "run"))
      assert section in str(caught.value) and f"{field}" in str(caught.value), (section, field)
      tried += 1
  assert tried > 60 and not cached, "nothing was encoded for a config that cannot run"


@pytest.mark.parametrize("make", [tiny.tae, tiny.t2v, tiny.clip], ids=["tae", "t2v", "clip"])
def test_every_unknown_field_is_named(make, tmp_path, cached):
  good = make(tmp_path)
  for section in SECTIONS[good["stage"]]:
    bad = copy.deepcopy(good)
    bad[section]["bogus"] = 1
    with pytest.raises(UserError, match=f"{section} has no field 'bogus'"):
      experiment.run(bad, str(tmp_path / "run"))
    del bad[section]
    with pytest.raises(UserError, match=f"the config has no '{section}'; there are "):
      experiment.run(bad, str(tmp_path / "run"))


def _set(config, path, value):
  *parents, name = path.split(".")
  for parent in parents:
    config = config[parent]
  config[name] = value


@pytest.mark.parametrize(
  "path, value, words",
  [
    ("model.dit.width", "wide", "dit.width is 'wide'"),
    ("model.dit.wdith", 8, "dit has no field 'wdith'"),
    ("model.dit.heads", 3, "16 is not divisible by 3 heads"),
    ("model.dit.channels", 5, "the model has channels=5, the latent 2"),
    ("model.dit.max_thw", [1, 2, 2], "4 frames of 16x16 do not fit the model"),
    ("model.encoders.text.layers", "two", "encoders.text.layers is 'two'"),
    ("model.dit.dtype", "float33", "dtype 'float33'; known are float32"),
    ("data.height", 18, "18x16 cannot be encoded"),
    ("sampling.height", 18, "18x16 cannot be encoded"),
    ("sampling.frames", 0, "frames is 0"),
    ("eval.every", 0, "eval.every"),
    ("objective.drop", {"text": 2.0}, "drop.text is 2.0"),
    ("autoencoder", "", "autoencoder is empty; train one first"),
    ("stage", "dreaming", "stage 'dreaming' is unknown; known are autoencoding"),
    ("mesh", [1, 1, "a", 1], "mesh is .* give four whole numbers"),
    ("mesh", [1, 1, 1], "4 sizes"),
    ("mesh", [4, 1, 1, 1], "data.global_batch is 2, .* over 4 devices of the mesh; .* does is 4"),
    ("train.accumulate", 3, "is 2, .* over 1 device times accumulate=3 .* does is 3"),
    ("model.dit.context_parallel", "rnig", "'rnig', which is unknown; give one of 'gather'"),
  ],
)
def test_a_generator_that_cannot_be_is_refused_before_clips_are_encoded(
  path, value, words, tmp_path, cached
):
  config = tiny.t2v(tmp_path)
  _set(config, path, value)
  with pytest.raises(UserError, match=words):
    experiment.run(config, str(tmp_path / "run"))
  assert not cached


def test_heads_that_the_mesh_cannot_split_are_told_before_clips_are_encoded(tmp_path, cached):
  config = tiny.t2v(tmp_path)
  config["mesh"] = [1, 1, 2, 1]
  config["model"]["dit"]["context_parallel"] = "ulysses"
  with pytest.raises(UserError, match="fit the model: .* 1 heads do not .* context = 1, and"):
    experiment.run(config, str(tmp_path / "run"))
  assert not cached


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"groups": 3}, "3 groups do not divide 4 channels"),
    ({"channels": 0}, "config model is not a valid network"),
    ({"multipliers": []}, "config model is not a valid network"),
    ({"patch": [4, 4]}, "config model.patch is"),
    ({"patch": [4, 5, 4]}, "multiples of 5 and 4; the nearest size is 15x16"),
    ({"latent": 0}, "config model is not a valid network"),
  ],
)
def test_an_autoencoder_that_cannot_be_is_refused(changes, words, tmp_path):
  config = tiny.tae(tmp_path)
  config["model"].update(changes)
  with pytest.raises(UserError, match=words):
    experiment.run(config, str(tmp_path / "run"))
  assert not (tmp_path / "data").exists(), "no data were built for it"


@pytest.mark.parametrize(
  "path, value, words",
  [
    ("data.height", 24, "images are 24x16, the tower takes 16x16"),
    ("text.text.length", 78, "a text of 78 tokens exceeds the 77 of this tower"),
    ("data.captions", "longest", "data.captions is 'longest', which is unknown; give one of 'all'"),
    ("model.text.end", 49407, "end is 49407; the bytes tokenizer ends texts with 1"),
    ("model.text.vocab", 200, "model.text"),
    ("model.vision.patch", 5, "patch"),
    ("model.text.heads", 3, "width 16 is not divisible by 3 heads"),
    ("objective.max_scale", 0.0, "max_scale is 0.0"),
    ("train.warm_start.required", True, "workdir=DIR, or a folder of converted weights"),
  ],
)
def test_a_clip_that_cannot_be_is_refused(path, value, words, tmp_path):
  config = tiny.clip(tmp_path)
  _set(config, path, value)
  with pytest.raises(UserError, match=words):
    experiment.run(config, str(tmp_path / "run"))
  assert not (tmp_path / "data").exists(), "no data were built for it"


@pytest.mark.parametrize(
  "section, field, value, words",
  [
    ("discriminator", "groups", 3, "3 groups do not divide 8 channels"),
    ("discriminator", "dtype", "float33", "dtype 'float33'"),
    ("discriminator", "widht", 3, "discriminator has no field 'widht'"),
    ("discriminator", "multipliers", [1, 2, 4, 8], "at least 24 pixels per side, not 16"),
    ("optim", "critic", {}, "optimizers are for"),
    ("objective", "lpips_files", ["nowhere.safetensors"], "nowhere.safetensors"),
  ],
)
def test_an_adversary_that_cannot_be_is_refused(section, field, value, words, tmp_path):
  config = tiny.gan(tmp_path)
  config[section][field] = value
  with pytest.raises(UserError, match=words):
    experiment.run(config, str(tmp_path / "run"))


def test_an_optimizer_of_a_role_names_its_section(tmp_path):
  config = tiny.gan(tmp_path)
  config["optim"]["discriminator"]["lr"] = "fast"
  with pytest.raises(UserError, match="config optim.discriminator.lr is 'fast'"):
    experiment.run(config, str(tmp_path / "run"))
  config["optim"] = configs.to_dict(tiny.load("tae", "tiny"))["optim"]
  assert isinstance(experiment.optim_config(config), OptimConfig)


def test_a_term_without_its_weights_is_left_out_and_told_once(tmp_path, caplog):
  config = tiny.tae(tmp_path)
  config["objective"]["lpips"] = 1.0
  built = experiment.build(config, str(tmp_path / "run"), make_mesh((1, 1, 1, 1)))
  assert built.objective.perceptual is None
  assert caplog.text.count("goes without this term") == 1
  assert [hook.name for hook in built.hooks] == ["evaluation", "statistics", "preview"]


def test_files_that_a_codec_of_sound_cannot_use_are_reported(tmp_path):
  config = tiny.sound(tmp_path)
  (tmp_path / "sounds" / "b.mp3").write_bytes(b"")
  experiment.build(config, str(tmp_path / "run"), make_mesh((1, 1, 1, 1)))
  [row] = (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()
  assert {"file": "b.mp3", "reason": "empty"}.items() <= json.loads(row).items()


def test_flops_count_both_roles(tmp_path):
  mesh = make_mesh((1, 1, 1, 1))
  one, two = (
    experiment.step_flops(experiment.build(make(tmp_path), str(tmp_path / "run"), mesh))
    for make in (tiny.tae, tiny.gan)
  )
  # The discriminator sees two clips in its own loss, and one in that of the autoencoder.
  critic = PatchDiscriminator(channels=4, multipliers=(1, 2), groups=2)
  clip = jax.ShapeDtypeStruct((2, 4, 16, 16, 3), jnp.float32)
  tree = jax.eval_shape(critic.init, jax.random.key(0), clip)
  forward = flops.count(critic.apply, tree, clip)
  assert 5 < (two - one) / forward < 10


def test_flops_of_a_role_that_rests_are_averaged(tmp_path):
  built = experiment.build(tiny.gan(tmp_path), str(tmp_path / "run"), make_mesh((1, 1, 1, 1)))
  roles = built.objective.roles
  halves = [
    experiment.step_flops(built, {r: OptimConfig(every=1 + (r == role)) for r in roles})
    for role in roles
  ]
  assert len(roles) == 2
  assert sum(halves) == pytest.approx(1.5 * experiment.step_flops(built)) != 2 * max(halves)


class Mixer:
  """A 3 x 3 matrix over colours: 2 * 9 FLOPs for a pixel forward, as many for its gradient."""

  roles = ("model",)

  def init(self, key, batch):
    return {"model": {"kernel": jnp.zeros((3, 3))}}

  def loss(self, role, params, batch, key, step, carry):
    mixed = batch["video"].astype(jnp.float32) @ params[role]["kernel"]
    return jnp.mean(mixed**2), ({}, carry)


def test_flops_are_averaged_over_the_kinds_of_batches(tmp_path):
  def count(**data):
    config = configs.build(DataConfig, tiny.tae(tmp_path, **data)["data"])
    return experiment.step_flops(Experiment(Mixer(), clip_feed(config), ()))

  video = 2 * 2 * 9 * (2 * 4 * 16 * 16)
  assert count() == video
  assert count(image_weight=1, video_weight=0) == video / 4
  assert count(image_weight=1, video_weight=3) == (3 * video + video / 4) / 4
  assert count(image_weight=1, video_weight=3, image_batch=8) == (3 * video + 4 * video / 4) / 4


def test_flops_of_a_generator_are_about_six_per_parameter_and_token(tmp_path, cached):
  config = tiny.t2v(tmp_path)
  config["objective"]["draws"] = 1
  wide = {"width": 128, "mlp_dim": 256, "layers": 4}
  config["model"]["dit"].update(wide, routes={"text": {"kind": "cross", "features": 16}})
  built = experiment.build(config, str(tmp_path / "run"), make_mesh((1, 1, 1, 1)))
  batch = next(built.feed.stream(threads=0))
  params = experiment.abstract_params(built.objective, batch)["model"]["dit"]["transformer"]
  # Keys and values of the text are taken at 12 tokens and not at 16, modulation once for a clip.
  tokens = 2 * 1 * 4 * 4
  assert 0.5 < experiment.step_flops(built) / (6 * count_params(params) * tokens) < 1.2


def test_previews_are_off_at_zero(tmp_path, cached):
  config = tiny.t2v(tmp_path)
  config["eval"]["previews"] = 0
  built = experiment.build(config, str(tmp_path / "run"), make_mesh((1, 1, 1, 1)))
  assert [hook.name for hook in built.hooks] == ["evaluation"]


def test_the_workdir_of_another_experiment_is_refused_untouched(tmp_path, cached):
  from mg_jax.train.checkpoint import Checkpointer

  saver = Checkpointer(tmp_path / "run", name="other")
  saver.save(1, {"params": {"a": jnp.ones(2)}}, data={})
  saver.close()
  with pytest.raises(UserError, match="holds experiment 'other', this is 't2v_256'"):
    experiment.run(tiny.t2v(tmp_path), str(tmp_path / "run"))
  assert not cached and not (tmp_path / "run" / "latents").exists()


@pytest.mark.slow
def test_a_tiny_autoencoder_and_a_tiny_generator_train(tmp_path):
  workdir = tmp_path / "new" / "folder" / "tae"
  result = experiment.run(tiny.tae(tmp_path, image_weight=1), str(workdir))
  assert (result.status, result.step) == ("finished", 2)
  workdir.rename(tmp_path / "tae")
  config = tiny.t2v(tmp_path, image_weight=1)
  config["train"]["steps"] = 1
  assert experiment.run(config, str(tmp_path / "t2v")).step == 1
  config["train"]["steps"] = 3
  assert experiment.run(config, str(tmp_path / "t2v")).step == 3
  for folder, metric in (("tae", "eval/psnr"), ("t2v", "eval/fm_loss")):
    lines = [json.loads(x) for x in (tmp_path / folder / METRICS).read_text().splitlines()]
    assert any(metric in line for line in lines)
    assert len(list((tmp_path / folder / "previews").glob("*.mp4"))) >= 2
