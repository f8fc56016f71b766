"""The generator: trained text streams, precomputed features, nulls, first gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import unbox
from mg_jax.models import conditioning
from mg_jax.models.encoders.clip import VisionTower, normalise
from mg_jax.models.generator import Generator

DIT = {
  "channels": 3,
  "patch": (1, 2, 2),
  "width": 16,
  "layers": 2,
  "heads": 2,
  "mlp_dim": 24,
  "max_thw": (4, 4, 4),
  "routes": {
    "text": {"kind": "cross", "features": 8},
    "ul2": {"kind": "cross", "features": 6},
  },
}
TEXT = {"kind": "t5", "vocab": 16, "width": 8, "layers": 1, "heads": 2, "head_dim": 4, "mlp_dim": 8}


@pytest.fixture(scope="module")
def batch():
  mask = jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
  cond = {
    "text": {"ids": jnp.where(mask, 5, 0).at[:, 1].set(3), "mask": mask},
    "ul2": {
      "features": jax.random.normal(jax.random.key(1), (2, 3, 6)),
      "mask": jnp.ones((2, 3), bool),
    },
  }
  return jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 3)), jnp.array([0.2, 0.7]), cond


@pytest.fixture(scope="module")
def model():
  return Generator(dit=DIT, encoders={"text": TEXT})


@pytest.fixture(scope="module")
def params(model, batch):
  return unbox(jax.jit(model.init)(jax.random.key(0), *batch))


def test_encoding_once_equals_encoding_inside(model, params, batch, awaken):
  params, (x, t, cond) = awaken(params), batch
  features = model.apply(params, cond, method="encode")
  assert features["ul2"] is cond["ul2"] and "ids" not in features["text"]
  # One operation at a time: compiled as a whole, the two would be fused, and so rounded, otherwise.
  inside, once = (model.apply(params, x, t, c) for c in (cond, features))
  np.testing.assert_array_equal(inside, once)


def test_the_text_encoder_learns_through_the_velocity(model, params, batch, awaken):
  target = jnp.ones_like(batch[0])
  loss = lambda p: jnp.mean((model.apply(p, *batch) - target) ** 2)  # noqa: E731
  grads = jax.jit(jax.grad(loss))(awaken(params))
  assert set(grads["params"]) == {"dit", "encoder_text"}
  for path, grad in jax.tree_util.tree_leaves_with_path(grads["params"]):
    assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)


def test_velocity_is_zero_at_init_and_the_head_learns_first(model, params, batch):
  assert not np.any(jax.jit(model.apply)(params, *batch))
  loss = lambda p: jnp.mean((model.apply(p, *batch) - 1) ** 2)  # noqa: E731
  grads = jax.jit(jax.grad(loss))(params)["params"]
  assert np.any(grads["dit"]["head"]["kernel"])
  assert not np.any(grads["dit"]["patch"]["kernel"])


def test_null_text_is_no_token(model, params, batch, awaken):
  params, (x, t, cond) = awaken(params), batch
  routes = model.routes()
  null = conditioning.null_like(cond, routes=routes)
  empty = dict(cond)
  empty["text"] = {
    "ids": jnp.full((2, 4), 7), "mask": jnp.zeros((2, 4), bool),
  }
  empty["ul2"] = {"features": jnp.full((2, 3, 6), 4.0), "mask": jnp.zeros((2, 3), bool)}
  np.testing.assert_array_equal(
    jax.jit(model.apply)(params, x, t, null), jax.jit(model.apply)(params, x, t, empty)
  )
  dropped = conditioning.drop(cond, {n: jnp.array([False, True]) for n in cond}, routes=routes)
  out = jax.jit(model.apply)(params, x, t, dropped)
  np.testing.assert_allclose(
    out[0], jax.jit(model.apply)(params, x, t, null)[0], rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(
    out[1], jax.jit(model.apply)(params, x, t, cond)[1], rtol=1e-5, atol=1e-6
  )


def test_ids_without_an_encoder_are_a_user_error(model, params, batch):
  x, t, cond = batch
  with pytest.raises(UserError, match="ul2.*no encoder"):
    jax.jit(model.apply)(params, x, t, cond | {"ul2": cond["text"]})


def test_a_misspelt_field_is_a_user_error(batch):
  model = Generator(dit=DIT | {"widht": 3}, encoders={"text": TEXT})
  with pytest.raises(UserError, match="width"):
    jax.jit(model.init)(jax.random.key(0), *batch)


TOWER = {
  "kind": "vision", "size": 8, "patch": 4, "width": 8, "layers": 1, "heads": 2, "mlp_dim": 8,
  "projection": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def heard():
  """A model of sound that looks at images with a tower of its own, and a batch for it."""
  routes = {"video": {"kind": "add", "features": 6}, "text": {"kind": "cross", "features": 8}}
  dit = DIT | {"patch": (1, 1, 1), "max_thw": (5, 1, 1), "routes": routes}
  model = Generator(dit=dit, encoders={"video": TOWER, "text": TEXT})
  cond = {
    "video": {
      "image": jax.random.randint(jax.random.key(1), (2, 3, 8, 8, 3), 0, 256).astype(jnp.uint8),
      "at": jnp.array([[0, 0, 1, 2, 2], [2, 1, 0, 1, 2]]),
      "mask": jnp.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], bool),
    },
    "text": {"ids": jnp.full((2, 3), 5), "mask": jnp.ones((2, 3), bool)},
  }
  x = jax.random.normal(jax.random.key(0), (2, 5, 1, 1, 3))
  params = unbox(jax.jit(model.init)(jax.random.key(0), x, jnp.array([0.2, 0.7]), cond))
  return model, params, x, cond


def test_each_latent_gets_the_vector_of_its_image_beside_its_neighbours(heard):
  model, params, _, cond = heard
  out = jax.jit(lambda c: model.apply(params, c, method="encode"))(cond)["video"]
  tower = VisionTower(**{key: value for key, value in TOWER.items() if key != "kind"})
  for row in range(2):
    pixels = normalise(cond["video"]["image"][row].astype(jnp.float32) / 255)
    before, after = pixels[jnp.array([0, 0, 1])], pixels[jnp.array([1, 2, 2])]
    stacked = jnp.concatenate([before, pixels, after], axis=-1)
    alone = tower.apply({"params": params["params"]["encoder_video"]}, stacked).pooled
    wanted = alone[cond["video"]["at"][row]] * cond["video"]["mask"][row][:, None]
    np.testing.assert_allclose(out[row], wanted, atol=1e-5)
  assert not out[0, 4].any() and out[1].any(-1).all()


def test_a_null_video_is_that_of_zero_features_and_the_tower_learns(heard, awaken):
  model, params, x, cond = heard
  params, t = awaken(params), jnp.array([0.2, 0.7])
  null = conditioning.null_like(cond, routes=model.routes())
  features = cond | {"video": jnp.zeros((2, 5, 6))}
  run = jax.jit(model.apply)
  np.testing.assert_array_equal(
    run(params, x, t, cond | {"video": null["video"]}), run(params, x, t, features)
  )
  grads = jax.grad(lambda p: jnp.square(run(p, x, t, cond)).sum())(params)["params"]
  for leaf in jax.tree.leaves(grads["encoder_video"]["patch_embed"]):
    assert jnp.abs(leaf).max() > 0
  assert set(model.text_encoders()) == {"text"}


def test_images_without_a_tower_or_of_another_size_are_named(heard):
  model, params, x, cond = heard
  blind = Generator(dit=model.dit, encoders={"text": TEXT})
  with pytest.raises(UserError, match="'video' is images but has no encoder"):
    blind.apply(params, cond, method="encode")
  small = cond["video"] | {"image": cond["video"]["image"][:, :, :4]}
  with pytest.raises(UserError, match="images are 4x8"):
    model.apply(params, cond | {"video": small}, method="encode")


@pytest.mark.parametrize("kind", [{}, {"kind": "clap"}])
def test_an_encoder_says_of_which_kind_it_is(batch, kind):
  """The route of its condition does not tell: other features may be added to latents too."""
  fields = {key: value for key, value in TEXT.items() if key != "kind"} | kind
  model = Generator(dit=DIT, encoders={"text": fields})
  words = f"model.encoders.text.kind is {kind.get('kind')!r}; known are t5, vision"
  with pytest.raises(UserError, match=words):
    model.text_encoders()
  with pytest.raises(UserError, match=words):
    jax.eval_shape(model.init, jax.random.key(0), *batch)


def test_encoders_are_told_apart_by_kind_alone(heard):
  model = heard[0]
  assert model.text_encoders().keys() == {"text"} and model.vision_encoders().keys() == {"video"}
  assert not any("kind" in fields for fields in model.text_encoders().values())
  swapped = Generator(dit=model.dit, encoders={"video": TEXT, "text": TOWER})
  assert swapped.text_encoders().keys() == {"video"}


def test_an_encoder_of_the_other_kind_reads_nothing(heard):
  model, params, _, cond = heard
  for name, kind in (("video", "vision"), ("text", "t5")):
    wrong = Generator(dit=model.dit, encoders={name: TEXT if name == "video" else TOWER})
    with pytest.raises(UserError, match=f"'{name}' is .* no encoder of kind '{kind}'; there is"):
      wrong.apply(params, {name: cond[name]}, method="encode")
