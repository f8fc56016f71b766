"""Programs of inference: tiles as the tiling cuts them, a solver step with both branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import t2v_256, tae, tae_image
from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.codecs.tiling import TiledAutoencoder, Tiling
from mg_jax.plan.inference import coding, sampling, tiles_of

TINY = Tiling(frames=16, overlap=8, side=32, border=16)


def _config(module):
  return configs.to_dict(module.get_config("tiny"))


@pytest.mark.parametrize("what", ["encode", "decode"])
@pytest.mark.parametrize("clip", [(40, 48, 32), (16, 32, 32), (5, 64, 80)])
def test_tiles_are_those_that_the_tiling_runs(what, clip):
  model = configs.build(TAE, _config(tae)["model"], where="model", parent=None)
  tiles = TiledAutoencoder(model, {}, TINY)
  ran = []

  def run(x, size, channels):
    ran.append(x.shape)
    return jnp.zeros((*size, channels))

  # The networks replaced by their shapes.
  tiles._encoder = lambda params, video: run(video, model.latent_shape(*video.shape[:3])[:3], 16)
  tiles._decoder = lambda params, x, *, frames: run(
    x, (frames, *(n * f for n, f in zip(x.shape[1:3], model.factors[1:], strict=True))), 3
  )
  if what == "encode":
    tiles.encode(np.zeros((*clip, 3), np.uint8))
  else:
    tiles.decode(np.zeros(model.latent_shape(*clip), np.float32), frames=clip[0])
  tile, count = tiles_of(model, TINY, clip, what=what)
  assert count == len(ran)
  expected = tile if what == "encode" else model.latent_shape(*tile)[:3]
  assert {shape[:3] for shape in ran} == {expected}


def test_the_papers_clip_is_cut_as_the_paper_says():
  model = configs.build(TAE, configs.to_dict(tae.get_config())["model"], where="m", parent=None)
  assert tiles_of(model, Tiling(), (256, 768, 768), what="encode") == ((32, 768, 768), 8)
  assert tiles_of(model, Tiling(), (256, 768, 768), what="decode") == ((32, 768, 768), 15)


def test_a_clip_takes_as_many_rounds_as_each_device_has_tiles():
  size = {"frames": 80, "height": 32, "width": 32}
  program = coding(_config(tae), make_mesh((2, 1, 1, 1)), size, what="encode")
  assert (program.rows, program.calls, program.clip) == (2, 2, (32, 32, 32))
  assert program.lower().as_text().count("sharding") > 1
  one = coding(_config(tae), make_mesh((1, 1, 1, 1)), size, what="encode")
  assert one.calls == 3 and 2 * one.model_flops == program.model_flops


def test_a_solver_step_runs_both_branches():
  mesh, config = make_mesh((2, 1, 1, 2)), _config(t2v_256)
  guided = sampling(config, mesh, {})
  assert guided.rows == 2 and guided.calls == config["sampling"]["steps"]
  # So small a model has as much to do around its layers.
  assert 1 < guided.model_flops / guided.formula_flops < 2
  out = guided.lower().compile().output_shardings
  assert len(jax.tree.leaves(out)) == 1
  plain = {**config, "sampling": {**config["sampling"], "guidance": 1.0}}
  alone = sampling(plain, make_mesh((1, 1, 1, 2)), {})
  assert alone.rows == 1 and 2 * alone.model_flops == pytest.approx(guided.model_flops, rel=0.01)


@pytest.mark.parametrize(
  "call, words",
  [
    (lambda m: sampling(_config(tae), m, {}), "no generator to sample with"),
    (lambda m: coding(_config(t2v_256), m, {}, what="encode"), "no autoencoder to encode with"),
    (lambda m: coding(_config(tae_image), m, {"height": 33}, what="decode"), "multiples of"),
    (lambda m: sampling(_config(t2v_256), make_mesh((4, 1, 1, 1)), {}), "of guidance is 2"),
    (lambda m: coding(_config(tae), make_mesh((2, 1, 1, 2)), {}, what="decode"), "--mesh=4,1,1,1"),
  ],
)
def test_mistakes_are_told(call, words):
  with pytest.raises(UserError, match=words):
    call(make_mesh((1, 1, 1, 1)))
