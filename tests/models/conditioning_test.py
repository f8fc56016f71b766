"""The route table, the nulls, dropout, and what each route does to the model's inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.models import conditioning
from mg_jax.models.conditioning import Conditioner, Route, table

ROUTES = {
  "text": {"kind": "cross", "features": 6},
  "prompt": {"kind": "cross", "features": 6},
  "task": [
    {"kind": "modulate", "classes": 3},
    {"kind": "cross", "classes": 3, "tokens": 4, "zero_init": True},
  ],
  "pose": {"kind": "modulate", "features": 2},
  "source": {"kind": "concat", "features": 5},
  "video": {"kind": "add", "features": 7},
  "keep": {"kind": "clean"},
}
WIDTH = 8


@pytest.fixture(scope="module")
def cond():
  normal = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)  # noqa: E731
  return {
    "text": {"features": normal(0, 2, 3, 6), "mask": jnp.array([[1, 1, 0], [1, 1, 1]], bool)},
    "prompt": {"ids": jnp.full((2, 4), 9, jnp.int32), "mask": jnp.ones((2, 4), bool)},
    "task": jnp.array([0, 2], jnp.int32),
    "pose": normal(1, 2, 2),
    "source": normal(2, 2, 2, 4, 4, 5),
    "video": normal(3, 2, 2, 7),
    "keep": jnp.ones((2, 2, 4, 4), bool),
  }


def encoded(cond):
  return cond | {"prompt": {"features": jnp.ones((2, 4, 6)), "mask": cond["prompt"]["mask"]}}


def init(cond, routes=ROUTES):
  module = Conditioner(WIDTH, routes)

  def everything(module, cond):
    x = jnp.ones((2, 2, 4, WIDTH))
    return module.modulation(cond), module.context(cond), module.tokens(x, cond, (1, 2, 2))

  run = functools.partial(module.init_with_output, method=everything)
  out, params = jax.jit(run)(jax.random.key(0), cond)
  return module, params, out


def test_every_null(cond):
  null = conditioning.null_like(cond, routes=table(ROUTES))
  assert not null["text"]["mask"].any() and not null["text"]["features"].any()
  assert not null["prompt"]["mask"].any() and not null["prompt"]["ids"].any()
  np.testing.assert_array_equal(null["task"], [3, 3])
  for name in ("pose", "source", "video", "keep"):
    assert not null[name].any(), name
  same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, cond, null)
  assert all(jax.tree.leaves(same))


def test_dropping_everything_is_the_null_and_nothing_is_the_identity(cond):
  routes = table(ROUTES)
  for keep, expected in ((False, conditioning.null_like(cond, routes=routes)), (True, cond)):
    out = conditioning.drop(cond, {n: jnp.full(2, keep) for n in cond}, routes=routes)
    jax.tree.map(np.testing.assert_array_equal, out, expected)


def test_dropping_is_per_sample_and_per_name(cond):
  out = conditioning.drop(cond, {"source": jnp.array([True, False])}, routes=table(ROUTES))
  np.testing.assert_array_equal(out["source"][0], cond["source"][0])
  assert not out["source"][1].any()
  np.testing.assert_array_equal(out["video"], cond["video"])


def test_a_guidance_branch_keeps_its_names(cond):
  routes = table(ROUTES)
  branch = conditioning.keep_only(cond, frozenset({"text"}), routes=routes)
  # What the latent holds already is no condition to guide on.
  keep = {n: jnp.full(2, n == "text" or routes[n][0].kind == "clean") for n in cond}
  jax.tree.map(np.testing.assert_array_equal, branch, conditioning.drop(cond, keep, routes=routes))
  with pytest.raises(UserError, match="txet"):
    conditioning.keep_only(cond, {"txet"}, routes=routes)


def test_new_routes_leave_the_tokens_and_the_modulation_bit_equal(cond):
  _, _, (modulation, _, tokens) = init(encoded(cond))
  np.testing.assert_array_equal(tokens, jnp.ones_like(tokens))
  np.testing.assert_array_equal(modulation, jnp.zeros((2, WIDTH)))


def test_each_route_reaches_its_input_once_awake(cond, awaken):
  module, params, _ = init(encoded(cond))
  params = awaken(params)
  x, full = jnp.ones((2, 2, 4, WIDTH)), encoded(cond)

  def outputs(cond):
    return (
      module.apply(params, cond, method="modulation"),
      module.apply(params, cond, method="context")[0],
      module.apply(params, x, cond, (1, 2, 2), method="tokens"),
    )

  reaches = {"text": 1, "prompt": 1, "pose": 0, "source": 2, "video": 2}
  base = outputs(full)
  for name, index in reaches.items():
    changed = outputs(
      full | {name: jax.tree.map(lambda a: ~a if a.dtype == bool else a + 1.0, full[name])}
    )
    moved = [not np.array_equal(a, b) for a, b in zip(base, changed, strict=True)]
    assert moved == [i == index for i in range(3)], name
  changed = outputs(full | {"task": (full["task"] + 1) % 3})
  assert [not np.array_equal(a, b) for a, b in zip(base, changed, strict=True)] == [1, 1, 0]


def test_context_joins_the_streams_in_order_of_their_names(cond):
  _, _, (_, (context, mask), _) = init(encoded(cond))
  assert context.shape == (2, 4 + 4 + 3, WIDTH)  # prompt, task, text
  np.testing.assert_array_equal(mask[0, 4:], [True] * 4 + [True, True, False])
  assert not context[:, 4:8].any() and context[:, 8:].any()  # the task's tokens start at zero


def test_a_null_class_brings_no_tokens(cond):
  full = encoded(cond) | {"task": jnp.array([3, 1], jnp.int32)}
  _, _, (_, (_, mask), _) = init(full)
  np.testing.assert_array_equal(mask[:, 4:8], [[False] * 4, [True] * 4])


def test_frames_of_another_number_are_a_user_error(cond):
  with pytest.raises(UserError, match="video.*3 frames"):
    init(encoded(cond) | {"video": jnp.ones((2, 3, 7))})
  with pytest.raises(UserError, match="source"):
    init(encoded(cond) | {"source": jnp.ones((2, 2, 8, 4, 5))})


def test_clean_masks_are_united(cond):
  module = Conditioner(WIDTH, {"a": {"kind": "clean"}, "b": {"kind": "clean"}})
  masks = {"a": jnp.array([[[[True, False]]]]), "b": jnp.array([[[[False, False]]]])}
  np.testing.assert_array_equal(module.apply({}, masks, method="clean"), [[[[True, False]]]])
  assert module.apply({}, {}, method="clean") is None


@pytest.mark.parametrize(
  "entry, message",
  [
    ({"kind": "crss", "features": 3}, "crss"),
    ({"kind": "cross"}, "exactly one"),
    ({"kind": "cross", "features": 3, "classes": 2}, "exactly one"),
    ({"kind": "add", "classes": 2}, "takes no classes"),
    ({"kind": "cross", "feature": 3}, "features"),
    ([{"kind": "cross", "features": 3}, {"kind": "modulate", "classes": 2}], "disagree"),
  ],
)
def test_a_wrong_table_is_a_user_error(entry, message):
  with pytest.raises(UserError, match=message):
    table({"x": entry})


def test_names_are_checked_both_ways(cond):
  routes = table(ROUTES)
  conditioning.check(cond, routes)
  with pytest.raises(UserError, match="missing"):
    conditioning.check({n: v for n, v in cond.items() if n != "video"}, routes)
  with pytest.raises(UserError, match="no route"):
    conditioning.check(cond | {"sound": 1}, routes)
  with pytest.raises(UserError, match="sound"):
    conditioning.drop(cond, {"sound": jnp.ones(2, bool)}, routes=routes)


def test_a_table_does_not_depend_on_the_order_of_its_keys():
  names = ["b", "a", "c"]
  one, two = ({n: Route("cross", features=2) for n in order} for order in (names, sorted(names)))
  assert list(table(one)) == list(table(two)) == ["a", "b", "c"]


def test_repeated_rows_keep_the_streams_of_a_context_equally_long():
  """A context is shared only where every stream of it is."""
  cross = {"kind": "cross", "features": 4}
  entry = {"features": jnp.ones((2, 3, 4)), "mask": jnp.ones((2, 3), bool)}
  cond = {"text": entry, "face": entry, "style": jnp.ones((2, 5))}
  style = {"kind": "modulate", "features": 5}
  rows = lambda routes: {  # noqa: E731
    name: jax.tree.leaves(value)[0].shape[0]
    for name, value in conditioning.repeat(cond, 3, routes=conditioning.table(routes)).items()
  }
  assert rows({"text": cross, "face": cross, "style": style}) == {"text": 2, "face": 2, "style": 6}
  both = [cross, {"kind": "modulate", "features": 4}]
  assert rows({"text": cross, "face": both, "style": style}) == {"text": 6, "face": 6, "style": 6}
