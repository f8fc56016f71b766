"""Training steps as programs: their largest batch, their FLOPs, and stages that have none."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments import ablation_t2v, clip_long, dacvae, soundtrack, t2v_256, t2v_768, tae, tae_gan
from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.models.inputs import abstract_latents, open_conditions
from mg_jax.plan.training import abstract_training, training, training_flops
from mg_jax.stages.experiment import optim_config
from mg_jax.stages.text_to_video import largest_clip
from mg_jax.train.optim import OptimConfig, build_optimizers
from mg_jax.train.state import abstract_params
from tests.train.conftest import Pair

LATENT = (2, 4, 4, 16)
_ROOT = Path(__file__).resolve().parents[2]


def _tiny(**data):
  config = t2v_256.get_config("tiny")
  config.model.dit.update(layers=2, unroll=1, width=128, mlp_dim=256)
  config.model.encoders.text.update(layers=1)
  config.data.update(data)
  return configs.to_dict(config)


def _count(config):
  objective, batch, _ = abstract_training(config)
  optimizers = build_optimizers(optim_config(config), objective.roles)
  return training_flops(objective, abstract_params(objective, batch), batch, optimizers)


@functools.cache
def _flops(rows, remat="none"):
  config = _tiny(global_batch=rows)
  config["model"]["dit"]["remat"] = remat
  return _count(config)


def test_flops_scale_with_the_batch():
  model, hardware = _flops(4)
  assert _flops(8) == (2 * model, 2 * hardware)


def test_recomputation_costs_a_forward_pass_that_the_model_does_not_count():
  model, hardware = _flops(4)
  again, recomputed = _flops(4, "full")
  assert again == pytest.approx(model, rel=0.02)
  assert 1.15 * hardware < recomputed < 1.35 * hardware


def test_frozen_parameters_cost_no_gradient():
  config = configs.to_dict(clip_long.get_config("tiny"))
  frozen = _count(config)[0]
  config["optim"]["freeze"] = ()
  assert frozen < 0.95 * _count(config)[0]


def test_a_role_that_steps_every_second_time_counts_half():
  objective, batch = Pair(), {name: jax.ShapeDtypeStruct((4, 8), "float32") for name in "xy"}
  params = abstract_params(objective, batch)
  counts = []
  for beats in ({}, {"model": 2}, {"critic": 2}):
    optim = {role: OptimConfig(every=beats.get(role, 1)) for role in objective.roles}
    optimizers = build_optimizers(optim, objective.roles)
    counts.append(training_flops(objective, params, batch, optimizers))
  for whole, *halves in zip(*counts, strict=True):
    assert sum(halves) == pytest.approx(1.5 * whole) and max(halves) < whole


def test_the_largest_bucket_is_planned():
  paper = configs.build(DataConfig, configs.to_dict(t2v_768.get_config())["data"])
  frames, height, width = largest_clip(paper)
  assert frames == 256 and 768**2 <= height * width < 1.01 * 768**2
  single = configs.build(DataConfig, _tiny(frames=8, width=48)["data"])
  assert largest_clip(single) == (8, 32, 48)
  assert largest_clip(single, "image") == (1, 32, 48)


def test_the_batch_with_the_most_tokens_is_planned():
  """Of the ablations, 4096 images with their prompts are more than 256 clips with theirs."""
  config = configs.to_dict(ablation_t2v.get_config())
  _, batch, clip = abstract_training(config)
  assert clip == (1, 192, 352) and batch["latent"].shape == (4096, 1, 24, 44, 16)
  config["data"]["image_batch"] = 512
  _, batch, clip = abstract_training(config)
  assert clip == (128, 192, 352) and batch["latent"].shape == (256, 16, 24, 44, 16)


def test_a_batch_holds_features_of_frozen_encoders_and_ids_of_others():
  tiny = abstract_latents(open_conditions(_tiny()), 4, LATENT)
  assert tiny["latent"].shape == (4, *LATENT) and tiny["text"]["ids"].shape == (4, 40)
  config = configs.to_dict(t2v_768.get_config())
  paper = abstract_latents(open_conditions(config), 4, LATENT)
  assert paper["ul2"]["features"].shape == (4, 512, 4096)
  assert set(paper) == {"latent", "index", "ul2", "metaclip", "byt5"}


def test_every_stage_has_a_batch():
  objective, batch, clip = abstract_training(configs.to_dict(tae.get_config()))
  assert clip == (32, 256, 256) and batch["video"].shape == (64, 32, 256, 256, 3)
  assert objective.roles == ("autoencoder",)
  critic, _, _ = abstract_training(configs.to_dict(tae_gan.get_config()))
  assert critic.roles == ("autoencoder", "discriminator")
  _, pairs, still = abstract_training(configs.to_dict(clip_long.get_config()))
  assert pairs["text"]["ids"].shape == (32768, 256) and still == (1, 224, 224)


def test_a_codec_of_sound_is_planned_with_its_critics():
  config = configs.to_dict(dacvae.get_config())
  objective, batch, clip = abstract_training(config)
  assert objective.roles == ("autoencoder", "critics")
  assert clip == (19_200, 1, 1) and batch["wave"].shape == (72, 19_200)
  config["data"]["rate"] = 44_100
  with pytest.raises(UserError, match="make them equal"):
    abstract_training(config)
  program = training(configs.to_dict(dacvae.get_config("tiny")), make_mesh((4, 1, 1, 1)))
  assert program.tokens == 0 and program.rows == 4 and program.formula_flops is None
  # Of the codec and of its critics: little of it is computed twice.
  assert program.model_flops == pytest.approx(program.hardware_flops, rel=0.05)


def test_soundtracks_are_planned_at_their_longest_chunk():
  objective, batch, clip = abstract_training(configs.to_dict(soundtrack.get_config("model=300m")))
  assert clip == (750, 1, 1) and batch["latent"].shape == (1536, 750, 1, 1, 128)
  assert batch["video"].shape == (1536, 750, 1024)
  assert batch["text"]["features"].shape == (1536, 512, 768) and batch["length"].shape == (1536,)
  config = configs.to_dict(soundtrack.get_config("tiny"))
  _, batch, clip = abstract_training(config)
  assert clip == (100, 1, 1) and batch["video"]["image"].shape == (8, 100, 32, 32, 3)
  config["data"]["global_batch"] = 8
  program = training(config, make_mesh((8, 1, 1, 1)))
  assert program.tokens == 100 and program.rows == 8
  # Besides the layers there are text and images, and what all of them share.
  assert 1 < program.model_flops / program.formula_flops < 2


def test_a_stage_without_a_model_is_told():
  with pytest.raises(UserError, match="stage 'curation' is unknown; known are autoencoding"):
    abstract_training({"stage": "curation", "model": {"a": 1}})
  with pytest.raises(UserError, match="has no model to plan"):
    abstract_training({"stage": "autoencoding"})


def test_what_is_held_is_split_over_the_mesh():
  config = _tiny(global_batch=8)
  whole, split = (training(config, make_mesh(s)) for s in ((8, 1, 1, 1), (2, 2, 1, 2)))
  assert whole.held["optimizer"] == pytest.approx(2 * whole.held["params"], rel=0.01)
  assert split.held["params"] < 0.35 * whole.held["params"]
  # Four groups of rows instead of eight.
  assert split.held["batch"] == 2 * whole.held["batch"]
  assert whole.rows == whole.samples == 8 and whole.formula_flops > 0
  assert whole.model_flops == split.model_flops


_MEASURE = """
import sys, threading, time
import jax
import jax.numpy as jnp
from mg_jax.core.mesh import make_mesh
from mg_jax.plan.training import training
from mg_jax.train.state import abstract_key
from tests.plan.training_test import _tiny

program = training(_tiny(global_batch=32, height=64, width=64), make_mesh((1, 1, 1, 1)))
lowered = program.lower()
compiled = lowered.compile()
planned = compiled.memory_analysis()
key = abstract_key().dtype
real = lambda s: jax.random.key(0) if s.dtype == key else jnp.zeros(s.shape, s.dtype)
args = jax.tree.map(real, lowered.args_info[0], is_leaf=lambda x: hasattr(x, "shape"))
jax.block_until_ready(args)
# What libraries set up at their first product and convolution is none of the program's.
image = jnp.ones((4, 64, 64, 16))
jax.block_until_ready(jax.jit(lambda a, b: jax.lax.conv(a, b, (1, 1), "SAME"))(
  image.transpose(0, 3, 1, 2), jnp.ones((16, 16, 3, 3))))
jax.block_until_ready(jax.jit(lambda a: a @ a.T)(image.reshape(1024, -1)))
held = sum(x.nbytes for x in jax.tree.leaves((args[0].params, args[0].opt_state, args[0].ema)))
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
before, seen, done = resident(), [0], []

def watch():
  while not done:
    seen.append(resident())
    time.sleep(0.001)

thread = threading.Thread(target=watch)
thread.start()
jax.block_until_ready(compiled(*args))
done.append(1)
thread.join()
print(held, sum(program.held.values()) - program.held["batch"], max(seen) - before,
      planned.temp_size_in_bytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs the memory of a process")
def test_a_run_takes_the_memory_of_its_plan():
  env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(_ROOT)}
  done = subprocess.run(
    [sys.executable, "-c", _MEASURE], env=env, capture_output=True, text=True, cwd=_ROOT
  )
  held, planned, taken, temporaries = map(int, done.stdout.split())
  assert held == planned, done.stderr[-500:]
  assert taken == pytest.approx(temporaries, rel=0.1) and temporaries > 2e8
