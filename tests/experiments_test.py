"""Recipes: what the configs of experiments/ say is what the paper says."""


import pytest

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.models import patches
from mg_jax.models.codecs.tae import TAE
from tests.train import tiny
from tests.train.tiny import NAMES


@pytest.mark.parametrize(
  "name, arg, batch, rate, steps, mesh",
  [  # [MG Table 3]: steps are counted from phase 1 on; mesh is (data, fsdp, context, tensor)
    ("t2i_256", "", 9216, 1e-4, 210_000, (1, -1, 1, 1)),
    ("t2v_256", "", 1536, 6e-5, 113_000, (1, -1, 1, 4)),
    ("t2v_256", "phase=2", 3072, 6e-5, 113_000 + 72_000, (1, -1, 1, 4)),
    ("t2v_768", "phase=1", 1536, 6e-5, 19_600, (1, -1, 1, 4)),
    ("t2v_768", "phase=2", 1536, 3e-5, 30_600, (1, -1, 1, 4)),
    ("t2v_768", "phase=3", 768, 2e-5, 46_500, (1, -1, 2, 4)),
    ("t2v_768", "phase=4", 512, 1e-5, 74_500, (1, -1, 2, 4)),
  ],
)
def test_stages_are_the_rows_of_table_3(name, arg, batch, rate, steps, mesh):
  config = tiny.load(name, arg)
  assert (config.data.global_batch, config.optim.lr, config.train.steps) == (batch, rate, steps)
  assert tuple(config.mesh) == mesh
  # Ten blocks of videos for one of images [MG 3.1.2], and ratios near the paper's sample counts.
  weights = (1, 0) if name == "t2i_256" else (1, 10)
  assert (config.data.image_weight, config.data.video_weight) == weights


@pytest.mark.parametrize("arg, factor", [(None, 1), ("tiny", 8)])
def test_position_tables_start_at_the_size_of_their_stage_and_grow(arg, factor):
  """[MG 3.2.2] As many rows as an image has tokens a side, twice as many, three times as many."""
  names = ("t2i_256", "t2v_256", "t2v_768", "t2v_sft", "t2i_1024", "t2i_1024_tune")
  tables = {name: tiny.load(name, arg).model.dit.max_thw for name in names}
  frames, first = 16 if arg else 32, 16 // factor
  assert tables["t2i_256"] == (1, first, first)
  assert tables["t2v_256"] == (frames, 2 * first, 2 * first)
  assert tables["t2v_768"] == tables["t2v_sft"] == (frames, 6 * first, 6 * first)
  assert tables["t2i_1024"] == tables["t2i_1024_tune"] and tables["t2i_1024"][0] == 1


@pytest.mark.parametrize("name", [n for n in NAMES if tiny.load(n).stage == "flow_matching"])
def test_position_tables_hold_every_shape_that_a_stage_trains_on(name):
  config = tiny.load(name)
  data = configs.build(DataConfig, config.data)
  patch, tables = config.model.dit.patch, config.model.dit.max_thw
  for kind in data.kinds:
    for shape in data.buckets(kind):
      latent = TAE(parent=None).latent_shape(shape.frames, shape.height, shape.width)[:3]
      grid = patches.grid(latent, patch)
      assert all(size <= most for size, most in zip(grid, tables, strict=True)), shape


def test_finetuning_is_of_16_s_at_16_and_10_67_s_at_24_frames_a_second():
  """[MG 3.3]"""
  config = tiny.load("t2v_sft")
  data = configs.build(DataConfig, config.data)
  found = {(b.frames, round(b.duration.clip_s, 2), b.duration.fps(12)) for b in data.buckets()}
  assert found == {(256, 16, 16), (256, 10.67, 24)}
  assert set(data.kinds) == {"video"} and config.optim.schedule == "cosine"


def test_the_ablations_are_as_the_paper_says():
  """[MG 3.6]"""
  first, second = (tiny.load(name) for name in ("ablation_t2i", "ablation_t2v"))
  assert (first.train.steps, first.optim.lr, first.data.global_batch) == (96_000, 3e-4, 9216)
  assert (second.train.steps, second.optim.lr) == (100_000, 5e-5)
  data = configs.build(DataConfig, second.data)
  assert (data.rows("image"), data.rows("video")) == (4096, 256)
  assert data.image_weight / data.video_weight == 0.02
  assert {(b.frames, b.height, b.width) for b in data.buckets()} == {(128, 192, 352)}
  assert {(b.height, b.width) for b in data.buckets("image")} == {(192, 352)}
  assert second.model.dit.width == first.model.dit.width == 3072
  assert second.model.dit.max_thw == (16, 22, 22)


def test_quality_tuning_is_as_the_paper_says():
  """[MG 3.8]"""
  config = tiny.load("t2i_1024_tune")
  assert (config.train.steps, config.optim.lr, config.data.global_batch) == (6000, 1e-5, 64)
  assert (config.optim.warmup, config.optim.schedule) == (2000, "constant")


def test_soundtracks_are_trained_as_the_paper_says():
  """[MG 6.2]"""
  config, tuned = (tiny.load(name) for name in ("soundtrack", "soundtrack_finetune"))
  assert (config.data.global_batch, config.train.steps, config.train.ema) == (1536, 500_000, 0)
  assert (config.optim.lr, config.optim.warmup, config.optim.weight_decay) == (1e-4, 5000, 0.1)
  assert config.optim.schedule == "constant" and config.data.chunks == ((10.0, 5), (30.0, 1))
  assert config.objective.drop.to_dict() == {
    "text": 0.1, "video": 0.1, "context": 0.0, "joint": 0.2
  }  # fmt: skip
  assert (config.objective.no_context, config.objective.masked) == (0.5, (0.75, 1.0))
  assert config.text.text.length == 512 and config.model.dit.max_thw == (750, 1, 1)
  assert (tuned.data.global_batch, tuned.train.steps, tuned.train.ema) == (256, 50_000, 0.999)
  assert (tuned.data.video_weight, tuned.data.sound_weight) == (10, 1)
  assert tuned.optim.schedule == "linear" and tuned.optim.warmup == 5000
  assert tuned.optim.lr * tuned.optim.final == pytest.approx(1e-8)
  assert tuned.train.warm_start.required and not tuned.train.warm_start.ema


def test_table_3_adds_up_to_the_samples_of_the_paper():
  for name, last, samples in (("t2v_256", 2, 394.8e6), ("t2v_768", 4, 73.8e6)):
    total = done = 0
    for phase in range(1, last + 1):
      config = tiny.load(name, f"phase={phase}")
      total += config.data.global_batch * (config.train.steps - done)
      done = config.train.steps
    assert abs(total / samples - 1) < 0.02


@pytest.mark.parametrize("name", ["tae", "tae_gan", "t2v_256", "t2v_768", "t2v_sft", "t2i_1024"])
def test_paper_size_stages_name_what_they_start_from(name):
  start = tiny.load(name).train.warm_start
  assert start.required and "experiments/" in start.after
  assert not tiny.load(name, "tiny").train.warm_start.required


@pytest.mark.parametrize("name, arg", [("t2v_256", "phase=3"), ("t2v_768", "phase=5")])
def test_an_unknown_phase_is_named(name, arg):
  with pytest.raises(UserError, match=f"{name} has no phase {arg[-1]}"):
    tiny.load(name, arg)
