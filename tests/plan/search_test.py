"""The search: what divides, what an estimate says fits, and the order in which splits are tried."""

import dataclasses
import itertools
import math
from types import SimpleNamespace

import jax
import pytest

from experiments import soundtrack, t2v_256, t2v_768, tae
from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.topology import Pod
from mg_jax.plan import search as plan_search
from mg_jax.plan.search import Work, choices, estimate, meshes, search, work_of

WORK = Work(
  layers=48, width=6144, heads=48, tokens=73_920, rows=16, accumulate=1,
  blocks=29_000_000_000, trained=29_300_000_000, state=4 * 4 * 29_300_000_000,
)  # fmt: skip


def _pod(count, *, chip="v5p", platform="tpu", memory=95.0):
  return Pod(f"{chip}:1x1x{count}", chip, platform, [None] * count, 1, memory, ("ici", "dcn"))


def test_meshes_take_every_device_and_divide():
  found = list(meshes(WORK, 128, slices=1))
  assert (1, 16, 1, 8) in found and len(set(found)) == len(found)
  for data, fsdp, context, tensor in found:
    assert data * fsdp * context * tensor == 128 and WORK.rows % (data * fsdp) == 0
    assert WORK.heads % tensor == 0 and WORK.tokens % (context * tensor) == 0
  assert all(mesh[0] == 2 for mesh in meshes(WORK, 256, slices=2))


def test_the_estimate_of_memory_is_that_of_a_plan():
  # Plans of docs/plans.md: 24.8 GiB on 64 H200 and 18.0 GiB on 256.
  for devices, peak in ((64, 24.8), (256, 18.0)):
    work = dataclasses.replace(WORK, rows=devices // 8)
    memory, *_ = estimate(work, _pod(devices), (1, devices // 8, 1, 8), "full")
    assert 0.6 * peak < memory / 2**30 < 1.6 * peak


def test_more_devices_and_less_kept_need_less_memory():
  memory = lambda mesh, remat: estimate(WORK, _pod(math.prod(mesh)), mesh, remat)[0]  # noqa: E731
  assert memory((1, 16, 1, 8), "full") < memory((1, 16, 1, 4), "full")
  order = [memory((1, 16, 1, 8), policy) for policy in plan_search.POLICIES]
  assert order == sorted(order, reverse=True)


def test_recomputation_and_slow_networks_take_time():
  seconds = lambda mesh, remat, **kw: estimate(WORK, _pod(128, **kw), mesh, remat)[1]  # noqa: E731
  assert seconds((1, 16, 1, 8), "full") > 1.2 * seconds((1, 16, 1, 8), "none")
  gpu = {"chip": "h200", "platform": "cuda"}
  assert seconds((1, 8, 1, 16), "full", **gpu) > 2 * seconds((1, 16, 1, 8), "full", **gpu)


def test_what_does_not_fit_by_far_is_not_compiled():
  found = choices(WORK, _pod(128, memory=30.0))
  assert found and {c.remat for c in found} == {"full"}
  assert all(c.memory <= 30.0 * 2**30 for c in found)
  assert not choices(WORK, _pod(128, memory=5.0))


def test_every_way_to_split_attention_is_tried_that_the_heads_allow():
  found = choices(WORK, _pod(128))
  assert {c.scheme for c in found if c.mesh[2:] == (2, 8)} == {"gather", "ulysses", "ring"}
  # 48 heads do not divide over 4 x 8.
  assert {c.scheme for c in found if c.mesh[2:] == (4, 8)} == {"gather", "ring"}
  assert {c.scheme for c in found if c.mesh[2] == 1} == {""}
  sent = [
    estimate(WORK, _pod(128, chip="h200", platform="cuda"), (1, 2, 8, 8), "full", scheme)[1]
    for scheme in ("ulysses", "gather", "ring")
  ]
  assert sent == sorted(sent) and sent[0] < sent[2]


def test_weights_need_not_be_split_over_all_of_a_torus():
  rows = dataclasses.replace(WORK, tokens=256, rows=128)  # few, so that it waits for weights
  found = list(meshes(rows, 128, slices=1))
  assert (8, 16, 1, 1) in found and (1, 128, 1, 1) in found
  torus = dataclasses.replace(_pod(128), name="v5p:4x4x8")
  far, near = (estimate(rows, torus, mesh, "full")[1] for mesh in ((1, 128, 1, 1), (8, 16, 1, 1)))
  flat = estimate(rows, dataclasses.replace(torus, name="v6e:8x16"), (1, 128, 1, 1), "full")[1]
  assert near < far and flat < far
  # Neither the name of a chip nor a side of one makes a torus solid.
  names = ("tpu7x:1x8x16", "tpu7x:4x4x8")
  flat, far = (
    estimate(rows, dataclasses.replace(torus, name=name), (1, 128, 1, 1), "full")[1]
    for name in names
  )
  assert flat < far


def test_of_splits_bound_alike_what_sends_least_comes_first():
  found = choices(WORK, _pod(128))
  kinds = [(c.mesh[2:], c.remat, c.scheme) for c in found]
  different = len(set(kinds))
  assert different < len(found) == len(set(found))
  # One of each kind comes before a second of any.
  assert len(set(kinds[:different])) == different
  for one, other in itertools.pairwise(found[:different]):
    assert one.seconds <= other.seconds
    if one.seconds == other.seconds:
      assert one.serial < other.serial + 0.01 * one.seconds


def _plan(*, least, scheduled=9.0, serial=11.0, peak=1.0, quick=True, fits=True):
  bound = SimpleNamespace(overlapped_s=least, scheduled_s=scheduled, serial_s=serial)
  memory = SimpleNamespace(peak=peak)
  return SimpleNamespace(fits=fits, bound=bound, memory=memory, quick=quick, to_dict=dict)


def _search(monkeypatch, plans, **kw):
  """Searches where the compiler gives these plans in turn; (splits it was given, ranked, lines)."""
  tried, lines, plans = [], [], iter(plans)

  def fake(config, pod, *, mesh, remat, price, quick):
    tried.append((mesh, remat, config["model"]["dit"].get("context_parallel", "")))
    return next(plans)

  monkeypatch.setattr(plan_search, "plan", fake)
  monkeypatch.setattr(plan_search, "work_of", lambda config: WORK)
  monkeypatch.setattr(plan_search.plan_report, "row", lambda plan: "row")
  config = {"model": {"dit": {}}}
  return tried, search(config, _pod(128), show=lines.append, **kw), lines


def test_the_best_of_the_budget_comes_first(monkeypatch):
  plans = [_plan(least=10.0), _plan(least=9.0), _plan(least=8.0, fits=False)]
  tried, ranked, lines = _search(monkeypatch, plans, budget=3)
  assert tried == [(c.mesh, c.remat, c.scheme) for c in choices(WORK, _pod(128))[:3]]
  assert ranked == [plans[1], plans[0]] and lines.count("row") == 3
  with pytest.raises(UserError, match="at least 1 plan"):
    search({}, _pod(128), budget=0)
  with pytest.raises(UserError, match="is estimated to fit; give more devices"):
    search({}, _pod(128, memory=5.0), budget=1)


def test_of_plans_bound_alike_the_schedule_then_what_is_sent_then_memory_decides(monkeypatch):
  plans = [_plan(least=9.0, serial=10.0), _plan(least=9.0, serial=9.51, peak=2.0),
           _plan(least=9.0, serial=9.52)]  # fmt: skip
  _, ranked, _ = _search(monkeypatch, plans, budget=3)
  assert ranked == [plans[2], plans[1], plans[0]]
  plans = [_plan(least=9.0, scheduled=10.0, quick=False), _plan(least=9.0, quick=False)]
  _, ranked, _ = _search(monkeypatch, plans, budget=2)
  assert ranked == [plans[1], plans[0]]


def test_what_needs_more_than_a_refused_split_is_not_planned(monkeypatch):
  found = choices(WORK, _pod(128))
  smaller = [c for c in found if c.memory < found[0].memory]
  assert found[1].memory > found[0].memory
  plans = [_plan(least=9.0, fits=False), *(_plan(least=9.0) for _ in range(3))]
  tried, ranked, _ = _search(monkeypatch, plans, budget=4)
  assert tried == [(c.mesh, c.remat, c.scheme) for c in (found[0], *smaller[:3])]
  assert len(ranked) == 3


def test_frozen_parameters_have_neither_gradient_nor_optimizer_state():
  config = configs.to_dict(t2v_256.get_config("tiny"))
  every, frozen = (
    work_of(config | {"optim": config["optim"] | {"moments": "float32", "freeze": freeze}})
    for freeze in ([], ["^encoder_text"])
  )
  fixed = every.trained - frozen.trained
  assert 0 < fixed < every.trained and every.blocks == frozen.blocks
  assert every.state - frozen.state == 2 * 4 * fixed, "two moments fewer"
  pod, mesh = _pod(2), (1, 2, 1, 1)
  whole, least = (estimate(work, pod, mesh, "full")[0] for work in (every, frozen))
  assert whole - least == 3 * 4 * fixed / 2, "and a gradient"


def test_the_sizes_are_those_of_the_config():
  work = work_of(configs.to_dict(t2v_768.get_config()))
  assert (work.tokens, work.rows, work.heads, work.layers) == (73_920, 1536, 48, 48)
  assert 28e9 < work.blocks < work.trained < 30e9
  # float32 weights and averages, a first moment in bfloat16 or float32, a second one
  assert 14 <= work.state / work.trained < 16.001
  sound = work_of(configs.to_dict(soundtrack.get_config()))
  assert (sound.tokens, sound.rows) == (750, 1536) and sound.blocks > 12e9
  tiny = work_of(configs.to_dict(t2v_256.get_config("tiny")))
  assert tiny.rows == 16 and tiny.blocks < tiny.trained < 1e8
  with pytest.raises(UserError, match="has no generator; --search splits"):
    work_of(configs.to_dict(tae.get_config()))
  assert jax.default_backend() == "cpu"
