"""The backbone: closed gates, scan against unroll, remat, masks, per-token modulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.sharding import unbox
from mg_jax.core.tree import flatten_paths
from mg_jax.models.transformer import Transformer

FIELDS = {"layers": 3, "heads": 2, "mlp_dim": 24}
BATCH, LENGTH, TEXT, WIDTH = 2, 6, 4, 16


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(scope="module")
def inputs():
  return {
    "positions": normal(1, LENGTH, WIDTH),
    "time_BD": normal(2, BATCH, WIDTH),
    "context_BSD": normal(3, BATCH, TEXT, WIDTH),
    "context_mask_BS": jnp.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool),
  }


@pytest.fixture(scope="module")
def x():
  return normal(0, BATCH, LENGTH, WIDTH)


@pytest.fixture(scope="module")
def params(x, inputs):
  return unbox(jax.jit(Transformer(**FIELDS).init)(jax.random.key(4), x, **inputs))


def test_layers_are_stacked_on_axis_zero(params):
  for path, leaf in flatten_paths(params["params"]["layers"]).items():
    assert leaf.shape[0] == FIELDS["layers"], path
  assert not any("bias" in path for path in flatten_paths(params))


def test_closed_gates_leave_positions_and_cross_attention_only(params, x, inputs):
  """At init the gated branches are shut: without context a layer only adds the positions."""
  inputs = {k: v for k, v in inputs.items() if "context" not in k}
  model = Transformer(**FIELDS)
  fresh = unbox(jax.jit(model.init)(jax.random.key(4), x, **inputs))
  y = x + FIELDS["layers"] * inputs["positions"]
  y = y / jnp.sqrt(jnp.mean(y**2, axis=-1, keepdims=True) + 1e-5)
  time = inputs["time_BD"][:, None]
  np.testing.assert_allclose(
    jax.jit(model.apply)(fresh, x, **inputs), y * (1 + time) + time, rtol=1e-4, atol=1e-5
  )


def test_output_projections_start_smaller(params):
  layers = params["params"]["layers"]
  ratio = jnp.std(layers["attention"]["wo"]) / jnp.std(layers["attention"]["wq"])
  assert abs(ratio - 1 / np.sqrt(2 * FIELDS["layers"])) < 0.05


def test_unroll_keeps_parameters_and_values(params, x, inputs, awaken):
  loop, flat = Transformer(**FIELDS), Transformer(**FIELDS, unroll=3)
  again = unbox(jax.jit(flat.init)(jax.random.key(4), x, **inputs))
  jax.tree.map(np.testing.assert_array_equal, params, again)
  params = awaken(params)
  np.testing.assert_allclose(
    jax.jit(loop.apply)(params, x, **inputs),
    jax.jit(flat.apply)(params, x, **inputs),
    rtol=1e-5,
    atol=1e-5,
  )


@pytest.mark.parametrize("policy", ["full", "attention", "mlp"])
def test_remat_policies_agree(policy, params, x, inputs, awaken):
  params = awaken(params)

  def run(policy):
    model = Transformer(**FIELDS, remat=policy)
    loss = lambda p, x: jnp.sum(jnp.sin(jax.jit(model.apply)(p, x, **inputs)))  # noqa: E731
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x)

  base, other = run("none"), run(policy)
  for a, b in zip(jax.tree.leaves(base), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_masked_context_changes_nothing_at_all(params, x, inputs, awaken):
  params, model = awaken(params), Transformer(**FIELDS)
  hidden = ~inputs["context_mask_BS"][..., None]
  other = inputs | {"context_BSD": jnp.where(hidden, 100.0, inputs["context_BSD"])}
  np.testing.assert_array_equal(
    jax.jit(model.apply)(params, x, **inputs), jax.jit(model.apply)(params, x, **other)
  )


def test_context_that_is_masked_whole_adds_nothing(params, x, inputs, awaken):
  """As if the layer had no cross-attention: the same gated branches, the same positions."""
  params = awaken(params)
  none = inputs | {"context_mask_BS": jnp.zeros((BATCH, TEXT), bool)}
  bare = {k: v for k, v in inputs.items() if "context" not in k}
  layers = {k: v for k, v in params["params"]["layers"].items() if k != "cross_attention"}
  without = {"params": params["params"] | {"layers": layers}}
  model = Transformer(**FIELDS)
  np.testing.assert_allclose(
    jax.jit(model.apply)(params, x, **none),
    jax.jit(model.apply)(without, x, **bare),
    rtol=1e-5,
    atol=1e-5,
  )


def test_tokens_are_a_set_but_for_their_positions(params, x, inputs, awaken):
  params, model = awaken(params), Transformer(**FIELDS)
  order = jax.random.permutation(jax.random.key(5), LENGTH)
  moved = jax.jit(model.apply)(
    params, x[:, order], **(inputs | {"positions": inputs["positions"][order]})
  )
  np.testing.assert_allclose(
    moved, jax.jit(model.apply)(params, x, **inputs)[:, order], rtol=1e-4, atol=1e-5
  )
  stay = jax.jit(model.apply)(params, x[:, order], **inputs)
  assert np.abs(stay - moved).max() > 1e-2


def test_no_token_is_hidden_from_another(params, x, inputs, awaken):
  params, model = awaken(params), Transformer(**FIELDS)
  jacobian = jax.jacobian(lambda x: jax.jit(model.apply)(params, x, **inputs).sum(-1))(x)
  assert np.all(np.any(jacobian[0, :, 0] != 0, axis=-1))


def test_clean_tokens_take_the_modulation_of_their_own_time(params, x, inputs, awaken):
  params, model = awaken(params), Transformer(**FIELDS)
  late = normal(6, BATCH, WIDTH)

  def run(clean):
    return jax.jit(model.apply)(params, x, **inputs, clean_BL=clean, clean_time_BD=late)

  shape = (BATCH, LENGTH)
  at = lambda time: jax.jit(model.apply)(params, x, **(inputs | {"time_BD": time}))  # noqa: E731
  np.testing.assert_allclose(
    run(jnp.zeros(shape, bool)), at(inputs["time_BD"]), rtol=1e-5, atol=1e-5
  )
  np.testing.assert_allclose(run(jnp.ones(shape, bool)), at(late), rtol=1e-5, atol=1e-5)
  # Per sample: the second has no clean token, so it is what it was.
  mixed = run(jnp.arange(LENGTH)[None] < jnp.array([[2], [0]]))
  np.testing.assert_allclose(mixed[1], at(inputs["time_BD"])[1], rtol=1e-5, atol=1e-5)
  assert np.abs(mixed[0] - at(inputs["time_BD"])[0]).max() > 1e-3


def test_positions_per_sample(params, x, inputs, awaken):
  params, model = awaken(params), Transformer(**FIELDS)
  tables = normal(7, BATCH, LENGTH, WIDTH)
  both = jax.jit(model.apply)(params, x, **(inputs | {"positions": tables}))
  for i in range(BATCH):
    one = jax.jit(model.apply)(params, x, **(inputs | {"positions": tables[i]}))
    np.testing.assert_allclose(both[i], one[i], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_bfloat16_stays_close(x, inputs, awaken, qk_norm):
  model = Transformer(**FIELDS, qk_norm=qk_norm)
  params = awaken(jax.eval_shape(model.init, jax.random.key(4), x, **inputs))
  low = Transformer(**FIELDS, qk_norm=qk_norm, dtype="bfloat16").apply(params, x, **inputs)
  assert low.dtype == jnp.bfloat16
  high = jax.jit(model.apply)(params, x, **inputs)
  assert np.linalg.norm(low.astype(jnp.float32) - high) < 0.03 * np.linalg.norm(high)
