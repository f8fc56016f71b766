"""Every attention candidate against the reference, and the rules of choosing one."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.kernels import attention, xla
from mg_jax.kernels.attention import Candidate, attend

LOCAL = [c for c in attention.candidates("cpu") if c.name != "reference"]

# (L, S): self, cross, odd, one token, several blocks of queries with a filled-up last one.
LENGTHS = [(16, 16), (24, 7), (13, 13), (1, 5), (1030, 33)]


def make_inputs(length, context, *, dtype=jnp.float32, masked=False, batch=3, heads=2, dim=8):
  keys = jax.random.split(jax.random.key(length * 1000 + context), 4)
  q = jax.random.normal(keys[0], (batch, length, heads, dim), dtype)
  k = jax.random.normal(keys[1], (batch, context, heads, dim), dtype)
  v = jax.random.normal(keys[2], (batch, context, heads, dim), dtype)
  ct = jax.random.normal(keys[3], q.shape, dtype)
  mask = None
  if masked:
    # The first example keeps everything, the last one nothing.
    mask = jnp.arange(context)[None] < jnp.array([context, (context + 1) // 2, 0])[:, None]
  return (q, k, v), ct, mask


def value_and_gradients(fn, inputs, ct):
  @jax.jit
  def run(inputs, ct):
    out, pullback = jax.vjp(fn, *inputs)
    return out, pullback(ct)

  return run(inputs, ct)


def assert_close(got, want, tolerance):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    np.testing.assert_allclose(a, b, atol=tolerance * max(1.0, np.abs(b).max()), rtol=0)


@pytest.mark.parametrize("candidate", LOCAL, ids=lambda c: c.name)
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("dtype,tolerance", [("float32", 2e-5), ("bfloat16", 2e-2)])
def test_parity_with_reference(candidate, masked, lengths, dtype, tolerance):
  inputs, ct, mask = make_inputs(*lengths, dtype=jnp.dtype(dtype), masked=masked)
  wide = [x.astype(jnp.float32) for x in inputs]
  want = value_and_gradients(
    lambda *x: xla.reference(*x, mask_BS=mask, scale=0.3), wide, ct.astype(jnp.float32)
  )
  got = value_and_gradients(lambda *x: candidate.run(*x, mask_BS=mask, scale=0.3), inputs, ct)
  assert all(x.dtype == jnp.dtype(dtype) for x in jax.tree.leaves(got))
  assert_close(got, want, tolerance)


@pytest.mark.parametrize("budget", [1, 16 * 16 * 2, 1 << 18], ids=["one", "some", "all"])
def test_blocked_agrees_however_many_heads_go_together(monkeypatch, budget):
  monkeypatch.setattr(xla, "_SCORES", budget)
  inputs, ct, mask = make_inputs(16, 16, masked=True)
  want = value_and_gradients(lambda *x: xla.reference(*x, mask_BS=mask, scale=1.0), inputs, ct)
  got = value_and_gradients(lambda *x: xla.blocked(*x, mask_BS=mask, scale=1.0), inputs, ct)
  assert_close(got, want, 2e-5)


def test_reference_is_softmax_attention():
  (q, k, v), _, mask = make_inputs(5, 4, masked=True)
  got = attend(q, k, v, mask_BS=mask, kernel="reference")
  q, k, v = (np.asarray(x) for x in (q, k, v))
  score = np.exp(q[1, :, 0] @ k[1, :2, 0].T / np.sqrt(8.0))
  want = (score / score.sum(-1, keepdims=True)) @ v[1, :2, 0]
  np.testing.assert_allclose(got[1, :, 0], want, atol=1e-5)


@pytest.mark.parametrize("candidate", attention.candidates("cpu"), ids=lambda c: c.name)
def test_fully_masked_rows_are_zero_with_zero_gradients(candidate):
  inputs, ct, mask = make_inputs(9, 6, masked=True)
  out, gradients = value_and_gradients(
    lambda *x: candidate.run(*x, mask_BS=mask, scale=1.0), inputs, ct
  )
  for x in (out, *gradients):
    np.testing.assert_array_equal(x[2], 0)
    assert np.abs(x[0]).max() > 0


def test_default_scale_is_inverse_root_of_head_dim():
  (q, k, v), _, _ = make_inputs(6, 6)
  np.testing.assert_allclose(attend(q, k, v), attend(q, k, v, scale=8**-0.5), atol=1e-6)


def test_blocked_memory_does_not_grow_with_the_score_matrix():
  def temporary_bytes(run):
    q = jax.ShapeDtypeStruct((1, 4096, 2, 8), jnp.float32)
    fn = jax.jit(lambda q, k, v: run(q, k, v, mask_BS=None, scale=1.0))
    return fn.lower(q, q, q).compile().memory_analysis().temp_size_in_bytes

  assert temporary_bytes(xla.blocked) < temporary_bytes(xla.reference) / 4


def only_short(q_shape, k_shape, dtype, masked, platform):
  return "keys are longer than 4" if k_shape[1] > 4 else None


@pytest.fixture
def fancy(monkeypatch):
  candidate = Candidate("fancy", only_short, lambda q, k, v, *, mask_BS, scale: jnp.zeros_like(q))
  monkeypatch.setitem(attention._ORDER, "cpu", (candidate, *attention.candidates("cpu")))
  monkeypatch.setattr(attention, "_reported", set())
  return candidate


def test_first_supported_candidate_runs(fancy):
  (q, k, v), _, _ = make_inputs(4, 4)
  np.testing.assert_array_equal(attend(q, k, v), 0)
  (q, k, v), _, _ = make_inputs(4, 5)
  assert np.abs(attend(q, k, v)).max() > 0


def test_choice_is_logged_once_with_reasons(fancy, caplog):
  (q, k, v), _, _ = make_inputs(4, 5)
  with caplog.at_level(logging.INFO, logger=attention.__name__):
    attend(q, k, v)
    attend(q, k, v)
  line = "attention uses the kernel 'blocked' on cpu (rejected fancy: keys are longer than 4)"
  assert [r.message for r in caplog.records] == [line]


def test_named_kernel_never_falls_back(fancy):
  (q, k, v), _, _ = make_inputs(4, 5)
  with pytest.raises(ValueError, match="'fancy' cannot run this call: keys are longer than 4"):
    attend(q, k, v, kernel="fancy")


def test_unknown_kernel_lists_the_known_ones():
  (q, k, v), _, _ = make_inputs(4, 4)
  with pytest.raises(ValueError, match="'splish'; cpu knows auto, blocked, reference"):
    attend(q, k, v, kernel="splish")


def test_platform_in_context_selects_its_candidates(monkeypatch):
  monkeypatch.setitem(attention._ORDER, "tpu", (attention._REFERENCE,))
  (q, k, v), _, _ = make_inputs(4, 4)
  attend(q, k, v, kernel="blocked")
  with attention.platform("tpu"), pytest.raises(ValueError, match="tpu knows auto, reference"):
    attend(q, k, v, kernel="blocked")


@pytest.mark.parametrize(
  "shapes",
  [((3, 4, 2, 8), (3, 6, 2, 8), (3, 5, 2, 8)), ((3, 4, 2, 8), (2, 6, 2, 8), (2, 6, 2, 8))],
  ids=["values", "batch"],
)
def test_shapes_that_do_not_fit_are_refused(shapes):
  # Asked below the annotations, which only tests check.
  with pytest.raises(ValueError, match="q_BLNK, k_BSNK, v_BSNK"):
    attention._check(*shapes, None)


def test_mask_that_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="attention mask"):
    attention._check((3, 4, 2, 8), (3, 6, 2, 8), (3, 6, 2, 8), (3, 4))
