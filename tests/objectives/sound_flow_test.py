"""Soundtracks: what is masked how often, what carries loss, what draws share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.models import conditioning
from mg_jax.models.generator import Generator
from mg_jax.objectives.base import Objective
from mg_jax.objectives.flow_matching import FlowMatching
from mg_jax.objectives.sound_flow import SoundFlow

ROUTES = {
  "text": {"kind": "cross", "features": 4},
  "video": {"kind": "add", "features": 3},
  "context": {"kind": "concat", "features": 2},
}


SEEN = {}  # what the network was given last


class Field(nn.Module):
  """Shows what it is given; its velocity is its one parameter."""

  def routes(self):
    return conditioning.table(ROUTES)

  def encode(self, cond):
    return dict(cond)

  @nn.compact
  def __call__(self, x, t_B, cond):
    SEEN.update(x=x, t=t_B, cond=cond)
    return jnp.zeros_like(x) + self.param("v", nn.initializers.zeros, ())


def _batch(size=64, latents=40):
  rng = np.random.default_rng(0)
  return {
    "latent": rng.normal(size=(size, latents, 1, 1, 2)).astype(np.float32) + 5,
    "length": np.where(np.arange(size) % 2, latents, latents - latents * 3 // 10).astype(np.int32),
    "text": {"features": np.ones((size, 3, 4), np.float32), "mask": np.ones((size, 3), bool)},
    "video": np.ones((size, latents, 3), np.float32),
    "index": np.arange(size, dtype=np.int32),
  }


def _loss(batch, key=0, **fields):
  objective = SoundFlow(Field(), **fields)
  params = objective.init(jax.random.key(0), batch)
  assert isinstance(objective, Objective)
  loss, _ = objective.loss("model", params, batch, jax.random.key(key), jnp.int32(0), {})
  return objective, params, float(loss)


def _known():
  return np.asarray(SEEN["cond"]["context"]).any((2, 3, 4))


def test_context_is_the_latent_beside_one_masked_span_within_what_is_real():
  batch = _batch(400)
  _loss(batch)
  known, length = _known(), batch["length"]
  real = np.arange(40) < length[:, None]
  np.testing.assert_array_equal(
    SEEN["cond"]["context"], np.where(known[:, :, None, None, None], batch["latent"], 0)
  )
  assert not known[~real].any()
  some = known.any(1)
  # Half are masked whole, and of the rest those few whose share rounds up to all.
  assert 0.35 < some.mean() < 0.55
  share = 1 - known.sum(1) / length
  assert share[some].min() >= 0.75 and share[some].max() > 0.9
  before, after = known[:, 0], known[np.arange(400), length - 1]
  for place in (before & after, before & ~after, ~before & after):
    assert place.mean() > 0.02
  # One span: from known to masked and back at most once.
  assert (np.abs(np.diff(known.astype(int) * real, axis=1)).sum(1) <= 3).all()
  assert not (~known & real & ~some[:, None]).any(1)[some].any()


def test_what_the_paper_drops_is_dropped_as_often():
  batch = _batch(4000, latents=8)
  drop = {"text": 0.1, "video": 0.1, "context": 0.0, "joint": 0.2}
  _loss(batch, drop=drop, no_context=0.0, masked=(0.5, 0.5))
  text, video = (np.asarray(a) for a in (SEEN["cond"]["text"]["mask"][:, 0], SEEN["cond"]["video"]))
  video, context = video.any((1, 2)), _known().any(1)
  assert abs((~context).mean() - 0.2) < 0.03, "lost with all the others alone"
  assert not text[~context].any() and not video[~context].any()
  for lost in (~text, ~video):
    assert abs(lost[context].mean() - 0.1) < 0.03
  assert abs((~text & ~video)[context].mean() - 0.01) < 0.01


def test_padding_carries_no_loss_in_training_and_evaluation():
  batch = _batch()
  objective, params, loss = _loss(batch)
  other = dict(batch, latent=batch["latent"].copy())
  other["latent"][::2, 28:] = 100
  assert _loss(other)[2] == pytest.approx(loss, rel=1e-6)
  other["latent"][1::2, 28:] = 100
  assert _loss(other)[2] > 10 * loss
  key = jax.random.key(1)
  values = objective.evaluate(params, batch, key)
  other["latent"][1::2] = batch["latent"][1::2]
  np.testing.assert_allclose(
    objective.evaluate(params, other, key)["fm_loss"], values["fm_loss"], rtol=1e-6
  )
  assert not SEEN["cond"]["context"].any()


def test_a_prefix_is_refused_as_the_context_says_what_is_known():
  class Routed(Field):
    def routes(self):
      return conditioning.table(ROUTES | {"known": {"kind": "clean"}})

  with pytest.raises(UserError, match="prefix is 0.5; sound goes on from its context"):
    SoundFlow(Routed(), prefix=0.5)


def test_known_latents_carry_loss():
  batch = _batch()
  model = Field()
  whole = SoundFlow(model, no_context=1.0)
  part = SoundFlow(model, no_context=0.0, masked=(0.75, 0.75))
  params = whole.init(jax.random.key(0), batch)
  losses = [
    objective.loss("model", params, batch, jax.random.key(0), jnp.int32(0), {})[0]
    for objective in (whole, part)
  ]
  assert losses[0] == losses[1]


def test_draws_see_one_text_and_have_contexts_of_their_own():
  batch = _batch(8)
  _loss(batch, draws=3, no_context=0.0, masked=(0.75, 0.8))
  assert SEEN["x"].shape[0] == 24 and SEEN["cond"]["text"]["mask"].shape == (8, 3)
  known = _known().reshape(8, 3, -1)
  assert (known[:, 0] != known[:, 1]).any(1).all()
  latents = np.repeat(batch["latent"], 3, axis=0)
  context = np.asarray(SEEN["cond"]["context"])
  np.testing.assert_array_equal(context[context != 0], latents[context != 0])
  assert len(np.unique(np.asarray(SEEN["t"]))) == 24


def test_draws_of_a_generator_encode_once_and_learn_the_same_things():
  """As many draws of one sample are as good as the sample repeated, for the tower too."""
  dit = {
    "channels": 2, "patch": (1, 1, 1), "width": 8, "layers": 1, "heads": 1, "mlp_dim": 8,
    "max_thw": (6, 1, 1), "routes": ROUTES,
  }  # fmt: skip
  tower = {
    "kind": "vision", "size": 4, "patch": 2, "width": 4, "layers": 1, "heads": 1, "mlp_dim": 4,
    "projection": 3,
  }  # fmt: skip
  text = {
    "kind": "t5", "vocab": 16, "width": 4, "layers": 1, "heads": 1, "head_dim": 4, "mlp_dim": 4
  }  # fmt: skip
  model = Generator(dit=dit, encoders={"video": tower, "text": text})
  batch = _batch(2, latents=6) | {
    "length": np.array([6, 4], np.int32),
    "video": {
      "image": np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 3), np.uint8),
      "at": np.zeros((2, 6), np.int32) + np.arange(6, dtype=np.int32) // 2,
      "mask": np.ones((2, 6), bool),
    },
    "text": {"ids": np.full((2, 3), 5, np.int32), "mask": np.ones((2, 3), bool)},
  }
  batch = jax.tree.map(jnp.asarray, batch)
  objective = SoundFlow(model, draws=2)
  params = objective.init(jax.random.key(0), batch)
  # At the zeros of initialisation nothing would be learned.
  params = jax.tree.map(lambda p: p + 0.1, params)

  @jax.jit
  def grads(params):
    args = batch, jax.random.key(2), jnp.int32(0), {}
    return jax.grad(lambda p: objective.loss("model", p, *args)[0])(params)["model"]

  found = nn.meta.unbox(grads(params))
  assert jnp.abs(found["encoder_video"]["patch_embed"]["kernel"]).max() > 0
  assert jnp.abs(found["encoder_text"]["embed"]).max() > 0


def test_bad_numbers_are_named():
  with pytest.raises(UserError, match="no_context is 2"):
    SoundFlow(Field(), no_context=2.0)
  with pytest.raises(UserError, match="masked is"):
    SoundFlow(Field(), masked=(0.9, 0.5))
  assert issubclass(SoundFlow, FlowMatching)
