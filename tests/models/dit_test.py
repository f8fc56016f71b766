"""The flow transformer: zero start, routes, one pixel audio, clean frames, one device or eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.core.mesh import make_mesh, use_mesh
from mg_jax.core.sharding import batch_sharding, state_shardings, unbox
from mg_jax.models.dit import VideoDiT

FIELDS = {
  "channels": 3,
  "patch": (1, 2, 2),
  "width": 16,
  "layers": 2,
  "heads": 2,
  "mlp_dim": 32,
  "max_thw": (4, 4, 4),
}
TEXT = {"text": {"kind": "cross", "features": 8}}
GROWN = TEXT | {
  "source": {"kind": "concat", "features": 3},
  "sound": {"kind": "add", "features": 5},
  "task": {"kind": "modulate", "classes": 3},
}


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def batch(size=2, frames=2):
  cond = {
    "text": {
      "features": normal(1, size, 4, 8),
      "mask": jnp.ones((size, 4), bool).at[:, 3:].set(False),
    },
    "source": normal(2, size, frames, 4, 4, 3),
    "sound": normal(3, size, frames, 5),
    "task": jnp.arange(size) % 3,
  }
  return normal(0, size, frames, 4, 4, 3), jnp.linspace(0.1, 0.9, size), cond


def only(cond, routes):
  return {name: cond[name] for name in routes}


def test_velocity_starts_at_zero():
  x, t, cond = batch()
  model = VideoDiT(**FIELDS, routes=GROWN)
  out, _ = jax.jit(model.init_with_output)(jax.random.key(0), x, t, cond)
  assert out.shape == x.shape and out.dtype == jnp.float32 and not np.any(out)


def test_every_parameter_gets_a_gradient_once_gates_open(awaken):
  x, t, cond = batch()
  model = VideoDiT(**FIELDS, routes=GROWN)
  params = awaken(jax.eval_shape(model.init, jax.random.key(0), x, t, cond))
  loss = lambda p: jnp.mean((model.apply(p, x, t, cond) - x) ** 2)  # noqa: E731
  grads = jax.jit(jax.grad(loss))(params)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)


def test_added_routes_keep_a_trained_model_bit_equal(awaken):
  """A warm start into new routes changes no bit until their weights move [MG 3.1.5, 5.1]."""
  x, t, cond = batch()
  small, grown = VideoDiT(**FIELDS, routes=TEXT), VideoDiT(**FIELDS, routes=GROWN)
  text = only(cond, TEXT)
  old = awaken(jax.eval_shape(small.init, jax.random.key(0), x, t, text))["params"]
  new = unbox(jax.jit(grown.init)(jax.random.key(1), x, t, cond))["params"]
  fresh = {k: v for k, v in new["conditioner"].items() if k not in old["conditioner"]}
  assert set(fresh) == {"source_concat", "sound_add", "task_modulate"}
  params = old | {"conditioner": old["conditioner"] | fresh}
  before = jax.jit(small.apply)({"params": old}, x, t, text)
  np.testing.assert_array_equal(jax.jit(grown.apply)({"params": params}, x, t, cond), before)

  awake = old | {"conditioner": old["conditioner"] | awaken(fresh)}
  assert np.abs(jax.jit(grown.apply)({"params": awake}, x, t, cond) - before).max() > 1e-4


def test_padded_text_changes_nothing_at_all(awaken):
  x, t, cond = batch()
  cond = only(cond, TEXT)
  model = VideoDiT(**FIELDS, routes=TEXT)
  params = awaken(jax.eval_shape(model.init, jax.random.key(0), x, t, cond))
  noisy = {"text": cond["text"] | {"features": cond["text"]["features"].at[:, 3:].add(50.0)}}
  np.testing.assert_array_equal(
    jax.jit(model.apply)(params, x, t, cond), jax.jit(model.apply)(params, x, t, noisy)
  )


def test_clean_positions_are_modulated_as_data(awaken):
  x, t, cond = batch()
  cond = only(cond, TEXT)
  routes = TEXT | {"keep": {"kind": "clean"}, "also": {"kind": "clean"}}
  model = VideoDiT(**FIELDS, routes=routes)
  params = awaken(jax.eval_shape(model.init, jax.random.key(0), x, t, cond))
  every = jnp.ones(x.shape[:-1], bool)
  run = lambda t, **masks: jax.jit(model.apply)(params, x, t, cond | masks)  # noqa: E731
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
  close(run(t, keep=every), run(jnp.ones_like(t)))
  close(run(t, keep=~every), run(t))
  first, rest = every.at[:, 1:].set(False), every.at[:, 0].set(False)
  assert np.abs(run(t, keep=first) - run(t)).max() > 1e-3
  close(run(t, keep=first, also=rest), run(t, keep=every))
  # A token is clean as a whole or not at all.
  close(run(t, keep=every.at[:, :, ::2].set(False)), run(t))


def test_audio_is_a_video_of_one_pixel():
  x, t = normal(0, 2, 12, 1, 1, 8), jnp.array([0.1, 0.4])
  routes = {"video": {"kind": "add", "features": 5}, "heard": {"kind": "concat", "features": 8}}
  model = VideoDiT(
    **FIELDS | {"channels": 8, "patch": (1, 1, 1), "max_thw": (12, 1, 1)}, routes=routes
  )
  cond = {"video": normal(1, 2, 12, 5), "heard": jnp.zeros_like(x)}
  out, params = jax.jit(model.init_with_output)(jax.random.key(0), x, t, cond)
  assert out.shape == x.shape
  assert "cross_attention" not in params["params"]["transformer"]["layers"]


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"channels": 4}, "channels"),
    ({"patch": (1, 3, 3)}, "divisible"),
    ({"heads": 3}, "heads"),
    ({"max_thw": (1, 4, 4)}, "position"),
  ],
)
def test_sizes_that_do_not_fit_are_user_errors(fields, message):
  x, t, cond = batch()
  with pytest.raises(UserError, match=message):
    VideoDiT(**FIELDS | fields, routes=GROWN).init(jax.random.key(0), x, t, cond)


@pytest.mark.parametrize(
  "shape, scheme",
  [
    ((8, 1, 1, 1), "gather"),
    ((1, 8, 1, 1), "gather"),
    ((1, 2, 2, 2), "gather"),
    ((2, 2, 1, 2), "gather"),
    ((2, 2, 2, 1), "ulysses"),
    ((1, 2, 2, 2), "ring"),
  ],
)
def test_eight_devices_agree_with_one(shape, scheme, awaken):
  x, t, cond = batch(size=8)
  model = VideoDiT(**FIELDS, routes=GROWN, remat="attention", context_parallel=scheme)
  boxed = jax.eval_shape(model.init, jax.random.key(0), x, t, cond)
  params = awaken(jax.eval_shape(model.init, jax.random.key(0), x, t, cond))

  def step(params, x, t, cond):
    def loss(params):
      out = jax.jit(model.apply)(params, x, t, cond)
      return jnp.mean((out - x) ** 2), out

    (_, out), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return out, grads

  one = jax.jit(step)(params, x, t, cond)
  mesh = make_mesh(shape)
  with use_mesh(mesh):
    placed = jax.device_put(params, state_shardings(boxed, mesh))
    args = jax.device_put((x, t, cond), batch_sharding(mesh))
    many = jax.jit(step)(placed, *args)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(many), strict=True
  ):
    error = np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(a)
    assert error < 1e-5, jax.tree_util.keystr(path)


@pytest.mark.parametrize(
  "scheme, how", [("gather", "all_gather"), ("ulysses", "all_to_all"), ("ring", "ppermute")]
)
def test_tokens_meet_as_the_field_says(scheme, how):
  x, t, cond = batch(size=8)
  model = VideoDiT(**FIELDS, routes=GROWN, context_parallel=scheme)
  with use_mesh(make_mesh((2, 2, 2, 1))):
    params = unbox(jax.eval_shape(model.init, jax.random.key(0), x, t, cond))
    program = str(jax.make_jaxpr(model.apply)(params, x, t, cond))
  assert [n for n in ("all_gather", "all_to_all", "ppermute") if f"{n}[" in program] == [how]
