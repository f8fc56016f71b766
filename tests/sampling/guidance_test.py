import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.sampling.guidance import Branch, branches, chain, expand, guided, parse

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(3, 2, 2, 2, 4)), jnp.float32)
T = jnp.array([0.1, 0.5, 0.9])
COND = {
  "text": jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32),
  "video": jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32),
}


def _keep(cond, names):
  return {name: a if name in names else jnp.zeros_like(a) for name, a in cond.items()}


def _guide(field, branches, cond=COND):
  return guided(field, branches)(X, T, expand(cond, branches, keep_only=_keep))


class Field:
  """A velocity that mixes everything it sees, and counts its calls."""

  def __init__(self):
    self.calls = 0

  def __call__(self, x, t_B, cond):
    self.calls += 1
    shift = jnp.tanh(cond["text"] + 2 * cond["video"]) + t_B[:, None]
    return jnp.sin(x) * shift[:, None, None, None]


def test_text_guidance_is_the_formula():
  field = Field()
  v = _guide(field, chain(("text", 7.5)))
  assert field.calls == 1
  null, text = (field(X, T, _keep(COND, names)) for names in ((), ("text",)))
  np.testing.assert_allclose(v, null + 7.5 * (text - null), atol=1e-5)


def test_two_scales_are_nested():
  field = Field()
  v = _guide(field, chain(("video", 1.5), ("text", 7.5)))
  assert field.calls == 1
  null, video, both = (field(X, T, _keep(COND, names)) for names in ((), ("video",), COND))
  np.testing.assert_allclose(v, null + 1.5 * (video - null) + 7.5 * (both - video), atol=1e-5)


def test_joint_scale_drops_both_together():
  assert chain((("text", "video"), 3.0)) == (
    Branch(-2.0, frozenset()), Branch(3.0, frozenset({"text", "video"}))
  )


@pytest.mark.parametrize("scales", [
  (("text", 7.5),), (("text", 1.0),), (("text", 0.0),), (("video", 1.5), ("text", 7.5)),
])
def test_weights_sum_to_one(scales):
  assert sum(branch.weight for branch in chain(*scales)) == pytest.approx(1.0)


def test_scale_one_is_the_conditional_branch_alone():
  assert chain(("text", 1.0)) == (Branch(1.0, frozenset({"text"})),)
  assert chain(("text", 0.0)) == (Branch(1.0, frozenset()),)
  assert chain(("video", 2.0), ("text", 2.0)) == (
    Branch(-1.0, frozenset()), Branch(2.0, frozenset({"text", "video"}))
  )
  field = Field()
  v = _guide(field, chain(("text", 1.0)))
  np.testing.assert_array_equal(v, field(X, T, _keep(COND, ("text",))))


def test_null_conditions_give_the_unconditional_field_at_any_scale():
  field = Field()
  null = _keep(COND, ())
  v = _guide(field, chain(("text", 7.5)), null)
  np.testing.assert_allclose(v, field(X, T, null), atol=1e-5)


def test_misuse_is_a_user_error():
  with pytest.raises(UserError, match="video"):
    chain(("video", 2.0), ("text", 3.0), ("video", 1.0))
  with pytest.raises(UserError):
    expand(COND, (), keep_only=_keep)


def test_a_condition_without_a_scale_is_kept_in_every_branch():
  field = Field()
  v = _guide(field, branches("text:7.5", ("text", "video")))
  video, both = (field(X, T, _keep(COND, names)) for names in (("video",), COND))
  np.testing.assert_allclose(v, video + 7.5 * (both - video), atol=1e-5)


def test_one_program_serves_every_scale_and_scales_may_rise():
  field, wanted = Field(), chain(("text", 7.5))
  branches = chain(("text", 3.0), whole=True)
  weights = jnp.array([branch.weight for branch in wanted])
  cond = expand(COND, branches, keep_only=_keep)
  null, text = (field(X, T, _keep(COND, names)) for names in ((), ("text",)))
  v = guided(field, branches, weights=weights)(X, T, cond)
  np.testing.assert_allclose(v, null + 7.5 * (text - null), atol=1e-5)
  for time in (0.0, 0.5, 1.0):
    t_B = jnp.full(3, time)
    null, text = (field(X, t_B, _keep(COND, names)) for names in ((), ("text",)))
    v = guided(field, branches, weights=weights, rising=True)(X, t_B, cond)
    np.testing.assert_allclose(v, null + (1 + 13 * time) * (text - null), atol=1e-5)


@pytest.mark.parametrize("value,scales", [
  (7.5, ((("first", "text"), 7.5),)),
  ("first:1.5,text:7.5", ((("first",), 1.5), (("text",), 7.5))),
  ("text+first:2", ((("text", "first"), 2.0),)),
  ("text:0", ((("text",), 0.0),)),
])
def test_scales_are_read(value, scales):
  assert parse(value, ("first", "text")) == scales


@pytest.mark.parametrize("value,message", [
  ("7.5", "give a number of at least 0"), ("text:", "give a number"), ("text:-1", "at least 0"),
  ("text:nan", "at least 0"), (-1.0, "at least 0"), ("sound:2", "names 'sound'; this model has"),
  ("text:2,text:3", "twice"),
])
def test_scales_that_make_no_sense_are_refused(value, message):
  with pytest.raises(UserError, match=message):
    parse(value, ("first", "text"))
