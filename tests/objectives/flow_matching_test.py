import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.losses import flow
from mg_jax.models import conditioning
from mg_jax.objectives.base import Objective
from mg_jax.objectives.flow_matching import KNOWN, FlowMatching

ROUTES = {"text": {"kind": "cross", "features": 4}, "style": {"kind": "modulate", "features": 3}}


class Field(nn.Module):
  """A velocity that is affine in what it is given, so that targets are easy to place."""

  table: tuple = ("text", "style")

  def routes(self):
    routes = ROUTES | {"keep": {"kind": "clean"}, KNOWN: {"kind": "clean"}}
    return conditioning.table({name: routes[name] for name in self.table})

  def encode(self, cond):
    return dict(cond)

  @nn.compact
  def __call__(self, x, t_B, cond):
    scale = self.param("scale", nn.initializers.ones, ())
    total = t_B
    if "text" in cond:
      total = total + (cond["text"]["features"] * cond["text"]["mask"][..., None]).sum((1, 2))
    if "style" in cond:
      total = total + cond["style"].sum(1)
    return scale * (x + total[:, None, None, None, None])


def _batch(size=4, **extra):
  rng = np.random.default_rng(0)
  return {
    "latent": rng.normal(size=(size, 2, 4, 4, 3)).astype(np.float32),
    "text": {
      "features": rng.normal(size=(size, 5, 4)).astype(np.float32),
      "mask": np.ones((size, 5), bool),
    },
    "style": rng.normal(size=(size, 3)).astype(np.float32),
    "fps": np.full((size,), 8.0, np.float32),
    "index": np.arange(size, dtype=np.int32) + 7,
  } | extra


def _setup(batch, **fields):
  objective = FlowMatching(fields.pop("model", Field()), **fields)
  return objective, objective.init(jax.random.key(0), batch)


def test_it_is_an_objective_and_init_traces():
  objective, params = _setup(_batch())
  assert isinstance(objective, Objective) and objective.roles == ("model",)
  abstract = jax.eval_shape(objective.init, jax.random.key(0), _batch())
  assert jax.tree.structure(abstract) == jax.tree.structure(params)


def test_loss_sees_the_path_and_the_velocity():
  seen = {}

  class Spy(Field):
    @nn.compact
    def __call__(self, x, t_B, cond):
      seen.update(x=x, t=t_B)
      return jnp.zeros_like(x)

  batch = _batch(256)
  objective = FlowMatching(Spy())
  loss, (metrics, carry) = objective.loss(
    "model", {"model": {}}, batch, jax.random.key(3), jnp.int32(0), {"a": 1}
  )
  t = seen["t"][:, None, None, None, None]
  x0 = (seen["x"] - t * batch["latent"]) / (1 - (1 - flow.SIGMA_MIN) * t)
  assert abs(float(x0.mean())) < 0.02 and float(x0.std()) == pytest.approx(1, abs=0.02)
  assert float(jnp.median(seen["t"])) == pytest.approx(0.5, abs=0.12)
  target = batch["latent"] - (1 - flow.SIGMA_MIN) * x0
  assert float(loss) == pytest.approx(float(jnp.mean(target**2)), rel=1e-4)
  assert metrics["loss"] == loss and carry == {"a": 1}


def test_loss_is_reproducible_and_differs_by_key():
  objective, params = _setup(_batch(), drop={"text": 0.5, "style": 0.5, "joint": 0.1})
  loss = jax.jit(lambda key: objective.loss("model", params, _batch(), key, 0, {})[0])
  assert loss(jax.random.key(1)) == loss(jax.random.key(1)) != loss(jax.random.key(2))
  assert jax.grad(
    lambda p: objective.loss("model", p, _batch(), jax.random.key(1), 0, {})[0]
  )(params)["model"]["scale"] != 0


def test_drop_rates_are_separate_and_joint():
  objective = FlowMatching(Field(), drop={"text": 0.3, "style": 0.0, "joint": 0.2})
  keep = objective._keep(jax.random.key(0), 20_000)
  assert set(keep) == {"text", "style"}
  assert float(keep["style"].mean()) == pytest.approx(0.8, abs=0.01)
  assert float(keep["text"].mean()) == pytest.approx(0.8 * 0.7, abs=0.01)
  assert not (keep["text"] & ~keep["style"]).any()


def test_dropped_conditions_are_null_in_the_loss():
  batch = _batch()
  objective, params = _setup(batch, drop={"text": 1.0})
  other = batch | {"text": jax.tree.map(np.zeros_like, batch["text"])}
  loss = lambda o, b: o.loss("model", params, b, jax.random.key(1), 0, {})[0]  # noqa: E731
  assert loss(objective, batch) == loss(objective, other)
  assert loss(FlowMatching(Field()), batch) != loss(FlowMatching(Field()), other)


def test_draws_of_a_sample_share_its_text_and_nothing_else():
  seen = {}

  class Spy(Field):
    @nn.compact
    def __call__(self, x, t_B, cond):
      seen.update(x=x, t=t_B, cond=cond)
      return jnp.zeros_like(x)

  batch = _batch(4)
  objective = FlowMatching(Spy(), draws=3)
  objective.loss("model", {"model": {}}, batch, jax.random.key(1), 0, {})
  assert seen["x"].shape == (12, 2, 4, 4, 3) and len(np.unique(seen["t"])) == 12
  assert seen["cond"]["text"]["features"].shape == (4, 5, 4)
  np.testing.assert_array_equal(seen["cond"]["style"], np.repeat(batch["style"], 3, axis=0))
  # Rows of one sample lie side by side: near t = 1 they show its data.
  near = np.asarray(seen["t"]).argmax()
  distance = np.square(batch["latent"] - seen["x"][near]).sum((1, 2, 3, 4))
  assert distance.argmin() == near // 3


def test_clean_positions_keep_their_data_and_carry_no_loss():
  mask = np.zeros((4, 2, 4, 4), bool)
  mask[:, 0] = True
  seen = {}

  class Spy(Field):
    @nn.compact
    def __call__(self, x, t_B, cond):
      seen["x"] = x
      return jnp.where(cond["keep"][..., None], 1e4, 0.0) * jnp.ones_like(x)

  batch = _batch(keep=mask)
  objective = FlowMatching(Spy(table=("keep",)))
  loss, _ = objective.loss("model", {"model": {}}, batch, jax.random.key(0), 0, {})
  np.testing.assert_array_equal(seen["x"][:, 0], batch["latent"][:, 0])
  assert (seen["x"][:, 1] != batch["latent"][:, 1]).any() and float(loss) < 10


class Watched(Field):
  """Says nothing, and shows what it is given."""

  table: tuple = ("text", "style", KNOWN)

  @nn.compact
  def __call__(self, x, t_B, cond):
    SEEN.update(x=x, t=t_B, cond=cond)
    return jnp.zeros_like(x)


SEEN = {}


def _clips(rows=256, frames=5, **extra):
  latent = np.random.default_rng(1).normal(size=(rows, frames, 2, 2, 3)).astype(np.float32)
  return _batch(rows, latent=latent, **extra)


def _watch(batch, model=None, seed=0, **fields):
  """The loss, and what the network was given, which is left in SEEN."""
  objective = FlowMatching(model or Watched(), **fields)

  @jax.jit
  def run(batch, key):
    loss, _ = objective.loss("model", {"model": {}}, batch, key, 0, {})
    return loss, dict(SEEN)

  loss, seen = run(batch, jax.random.key(seed))
  SEEN.update(jax.tree.map(np.asarray, seen))
  return float(loss)


@pytest.mark.parametrize("draws", [1, 2])
def test_a_prefix_is_one_to_all_but_one_of_the_frames(draws):
  batch = _clips()
  _watch(batch, prefix=1.0, draws=draws)
  known = SEEN["cond"][KNOWN]
  assert known.shape == (draws * 256, 5, 2, 2) and known.dtype == bool
  count = known[:, :, 0, 0].sum(1)
  np.testing.assert_array_equal(known[..., 0, 0], np.arange(5) < count[:, None])
  assert (known == known[:, :, :1, :1]).all()
  values, often = np.unique(count, return_counts=True)
  assert values.tolist() == [1, 2, 3, 4] and often.min() > 0.15 * len(count)
  if draws > 1:  # each has one of its own
    assert (count[::2] != count[1::2]).any()
  latent = np.repeat(batch["latent"], draws, axis=0)
  np.testing.assert_array_equal(SEEN["x"][known], latent[known])
  assert (SEEN["x"][~known] != latent[~known]).any(-1).all()


def test_a_prefix_is_as_frequent_as_it_says_and_images_have_none():
  _watch(_clips(2000), prefix=0.25)
  count = SEEN["cond"][KNOWN][:, :, 0, 0].sum(1)
  assert (count > 0).mean() == pytest.approx(0.25, abs=0.04)
  _watch(_clips(8, 2), prefix=1.0)
  assert (SEEN["cond"][KNOWN][:, :, 0, 0].sum(1) == 1).all()
  _watch(_clips(8, 1), prefix=1.0)
  assert KNOWN not in SEEN["cond"]


def test_frames_of_a_prefix_carry_no_loss():
  batch = _clips()

  class Perfect(Watched):
    """Right about what is unknown, wild about what is known, or the other way round."""

    wild: bool = True

    @nn.compact
    def __call__(self, x, t_B, cond):
      t = t_B[:, None, None, None, None]
      x0 = (x - t * batch["latent"]) / (1 - (1 - flow.SIGMA_MIN) * t)
      right = batch["latent"] - (1 - flow.SIGMA_MIN) * x0
      return jnp.where(cond[KNOWN][..., None] == self.wild, 1e4, right)

  assert _watch(batch, Perfect(), prefix=1.0) < 1e-4
  assert _watch(batch, Perfect(wild=False), prefix=1.0) > 1e4


def test_a_prefix_changes_nothing_else_that_is_drawn():
  """Without one, a model that has the route learns bit for bit as one that has not."""
  batch = _clips()
  fields = {"drop": {"text": 0.5, "style": 0.3, "joint": 0.1}, "time": "stratified"}
  plain = Watched(table=("text", "style"))
  wanted, before = _watch(batch, plain, seed=3, **fields), dict(SEEN)
  assert _watch(batch, seed=3, prefix=0.0, **fields) == wanted and KNOWN not in SEEN["cond"]
  np.testing.assert_array_equal(SEEN["x"], before["x"])
  _watch(batch, seed=3, prefix=1.0, **fields)
  known = SEEN["cond"].pop(KNOWN)
  np.testing.assert_allclose(SEEN["x"][~known], before["x"][~known], rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(SEEN["t"], before["t"])
  jax.tree.map(np.testing.assert_array_equal, SEEN["cond"], before["cond"])


def test_evaluation_draws_no_prefix():
  batch, key = _clips(4), jax.random.key(0)
  objective = FlowMatching(Watched(), prefix=1.0)
  jax.eval_shape(lambda b: objective.evaluate({"model": {}}, b, key), batch)
  assert SEEN["cond"].keys() == {"text", "style"}


def test_evaluate_reports_every_time_and_their_mean():
  batch = _batch()
  objective, params = _setup(batch)
  out = objective.evaluate(params, batch, jax.random.key(0))
  times = ("0.06", "0.19", "0.31", "0.44", "0.56", "0.69", "0.81", "0.94")
  names = [f"fm_loss/t{t}" for t in times]
  assert list(out) == ["fm_loss", *names]
  assert all(value.shape == () for value in out.values())
  np.testing.assert_allclose(out["fm_loss"], np.mean([out[n] for n in names]), rtol=1e-5)


def test_evaluate_noise_belongs_to_the_sample():
  batch = _batch()
  objective, params = _setup(batch, drop={"text": 0.9})

  def loss(rows, shift=0, **extra):
    part = jax.tree.map(lambda a: a[np.array(rows)], batch) | extra
    part["index"] = part["index"] + shift
    return float(objective.evaluate(params, part, jax.random.key(0))["fm_loss"])

  alone = [loss([row]) for row in range(4)]
  assert loss([2, 0, 3]) == pytest.approx((alone[2] + alone[0] + alone[3]) / 3, rel=1e-5)
  assert loss([1], shift=1) != pytest.approx(alone[1], rel=1e-3)
  assert loss([1, 2, 3], valid=np.array([True, False, True])) == pytest.approx(
    (alone[1] + alone[3]) / 2, rel=1e-5
  )


def test_perfect_field_has_no_validation_loss():
  """With one data point the optimal velocity is known: (x1 - x) / (1 - t), up to SIGMA_MIN."""
  batch = _batch(1)

  class Perfect(Field):
    @nn.compact
    def __call__(self, x, t_B, cond):
      t = t_B[:, None, None, None, None]
      return (batch["latent"] - x) / (1 - t)

  out = FlowMatching(Perfect()).evaluate({"model": {}}, batch, jax.random.key(0))
  assert max(float(v) for v in out.values()) < 1e-6


def test_misuse_is_a_user_error():
  with pytest.raises(UserError, match="0..1"):
    FlowMatching(Field(), drop={"text": 1.5})
  with pytest.raises(UserError, match="prefix is 1.5; a probability"):
    FlowMatching(Watched(), prefix=1.5)
  with pytest.raises(UserError, match="prefix is 0.5, but the model has no route 'known'; add"):
    FlowMatching(Field(), prefix=0.5)
  with pytest.raises(UserError, match="draws 0"):
    FlowMatching(Field(), draws=0)
  with pytest.raises(UserError, match="joint"):
    FlowMatching(Field(), drop={"joint": 0.1})
  batch = _batch()
  del batch["text"]
  with pytest.raises(UserError, match="text"):
    FlowMatching(Field()).init(jax.random.key(0), batch)
