"""The benchmark: its peers compute what we compute, it samples fairly and reports truly."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from launch.bench_suites import driver, ours, report, worker
from launch.bench_suites.driver import Row
from launch.bench_suites.suites import SAME_WORK, SIZES, SUITES, Program
from mg_jax.core.errors import UserError
from mg_jax.core.tree import flatten_paths

_ROOT = Path(__file__).resolve().parents[1]


def _torch():
  return pytest.importorskip("torch", reason="needs pip install -e .[parity]")


def _perturbed(params, seed=0):
  """Parameters without the zeros and ones they start with, which would hide what they multiply."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  noise = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
  return jax.tree.unflatten(tree, noise)


def _load(module, state):
  """Copies numpy arrays into a torch module, all of its parameters."""
  torch = _torch()
  module.load_state_dict({name: torch.tensor(np.array(x)) for name, x in state.items()})
  return module


def _block_state(params):
  p = {name: np.asarray(x) for name, x in flatten_paths(params).items()}
  width = p["modulation"].shape[1]
  into = lambda *names: np.concatenate([p[n].reshape(width, -1) for n in names], axis=1).T  # noqa: E731
  out = lambda name: p[name].reshape(-1, width).T  # noqa: E731
  return {
    "modulation": p["modulation"],
    "attention_norm.weight": p["attention_norm/scale"],
    "qkv.weight": into("attention/wq", "attention/wk", "attention/wv"),
    "out.weight": out("attention/wo"),
    "cross_q.weight": into("cross_attention/wq"),
    "cross_kv.weight": into("cross_attention/wk", "cross_attention/wv"),
    "cross_out.weight": out("cross_attention/wo"),
    "mlp_norm.weight": p["mlp_norm/scale"],
    "w13.weight": into("mlp/w1/kernel", "mlp/w3/kernel"),
    "w2.weight": out("mlp/w2/kernel"),
  }


def _layer_state(params, name):
  """The subtree `name` of an autoencoder's parameters as a state dict of the peer's layer."""
  tree = flatten_paths(params[name])
  fused = [p for p in ("query", "key", "value") if f"{p}/kernel" in tree]
  if fused:
    for leaf in ("kernel", "bias"):
      tree[f"qkv/{leaf}"] = np.concatenate([tree.pop(f"{p}/{leaf}") for p in fused], axis=-1)
  state = {}
  for path, x in tree.items():
    x, parts = np.asarray(x), path.split("/")
    if parts[-1] == "kernel":
      x = np.moveaxis(x, (-1, -2), (0, 1))
      if parts[-2] == "temporal":
        x = x[..., None, None]
      elif parts[-2] == "shortcut":
        x = x[..., None, None, None]
    leaf = {"kernel": "weight", "scale": "weight", "bias": "bias"}[parts[-1]]
    state[".".join([*parts[:-1], leaf])] = x
  return state


def _tae_state(params, part, levels, blocks):
  """Parameters of one half of our autoencoder, numbered like the layers of the peer's."""
  middle = [{"block1": 0, "space": 1, "time": 2, "block2": 3}]
  names = [f"{part}_in"] + (middle if part == "decoder" else [])
  resample = "down" if part == "encoder" else "up"
  for i in range(levels):
    names += [f"{part}_blocks_{i}_{j}" for j in range(blocks + (part == "decoder"))]
    names += [f"{part}_{resample}_{i}"] if i < levels - 1 else []
  names += (middle if part == "encoder" else []) + [f"{part}_norm", "silu", f"{part}_out"]
  state = {}
  for i, name in enumerate(names):
    if isinstance(name, dict):
      for inner, j in name.items():
        layer = _layer_state(params[f"{part}_middle"], inner)
        state |= {f"{i}.{j}.{k}": x for k, x in layer.items()}
    elif name != "silu":
      state |= {f"{i}.{k}": x for k, x in _layer_state(params, name).items()}
  return {f"layers.{k}": x for k, x in state.items()}


@pytest.fixture(scope="module")
def block():
  shapes = SUITES["dit_block_forward"].sizes["tiny"]
  fn, (params, learned, fixed), _ = ours.function("block_forward", shapes)
  return shapes, fn, _perturbed(params), learned, fixed


def _torch_block(shapes, params, inputs):
  torch = _torch()
  from launch.bench_suites import peers

  module = peers.Block(shapes["width"], shapes["heads"], shapes["mlp_dim"])
  return _load(module, _block_state(params)), {
    name: torch.tensor(np.array(x)) for name, x in inputs.items()
  }


def test_the_peer_computes_our_block(block):
  shapes, fn, params, learned, fixed = block
  module, inputs = _torch_block(shapes, params, learned | fixed)
  want = np.asarray(jax.jit(fn)(params, learned, fixed))
  np.testing.assert_allclose(module(**inputs).detach().numpy(), want, atol=1e-4)


def test_the_peer_computes_our_step(block):
  shapes, _, params, learned, fixed = block
  step, _, _ = ours.function("block_step", shapes)
  loss, (d_params, d_learned) = jax.jit(step)(params, learned, fixed)
  module, inputs = _torch_block(shapes, params, learned | fixed)
  for name in learned:
    inputs[name].requires_grad_()
  value = module(**inputs).square().mean()
  value.backward()
  np.testing.assert_allclose(value.item(), loss, rtol=1e-5)
  for name, want in _block_state(d_params).items():
    got = module.get_parameter(name).grad.numpy()
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max(), err_msg=name)
  for name, want in d_learned.items():
    np.testing.assert_allclose(inputs[name].grad.numpy(), want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("part", ["encode", "decode"])
def test_the_peer_computes_our_autoencoder(part):
  torch = _torch()
  from launch.bench_suites import peers

  shapes = SUITES[f"tae_{part}"].sizes["tiny"]
  model = shapes["model"]
  fn, (params, x), frames = ours.function(f"tae_{part}", shapes)
  assert frames == shapes["batch"] * shapes["frames"]
  params = _perturbed(params)
  levels, blocks = len(model["multipliers"]), model["blocks"]
  made = peers.Encoder(**model) if part == "encode" else peers.Decoder(**model)
  module = _load(made, _tae_state(params, f"{part}r", levels, blocks))
  x_last = torch.tensor(np.array(x)).movedim(-1, 1)
  assert x_last.is_contiguous(memory_format=torch.channels_last_3d)
  with torch.inference_mode():
    got = module(x_last)
  want = jax.jit(fn)(params, x)
  pairs = zip(got, want, strict=True) if part == "encode" else [(got, want)]
  for a, b in pairs:
    b = np.asarray(b)
    np.testing.assert_allclose(a.movedim(1, -1).numpy(), b, atol=1e-4 * max(1, np.abs(b).max()))


def test_the_peer_takes_our_training_step_of_an_autoencoder():
  torch = _torch()
  from launch.bench_suites import peers

  shapes = SUITES["tae_step"].sizes["tiny"]
  model = shapes["model"]
  fn, (params, x), _ = ours.function("tae_step", shapes)
  params = _perturbed(params)
  loss, gradients = jax.jit(fn)(params, x)
  halves = []
  for part, made in (("encoder", peers.Encoder(**model)), ("decoder", peers.Decoder(**model))):
    layout = functools.partial(
      _tae_state, part=part, levels=len(model["multipliers"]), blocks=model["blocks"]
    )
    halves.append((_load(made, layout(params)), layout(gradients)))
  (encoder, _), (decoder, _) = halves
  x_last = torch.tensor(np.array(x)).movedim(-1, 1)
  value = (decoder(encoder(x_last)[0]) - x_last).abs().mean()
  value.backward()
  np.testing.assert_allclose(value.item(), loss, rtol=1e-5)
  for module, wanted in halves:
    for name, want in wanted.items():
      got = module.get_parameter(name).grad.numpy()
      scale = max(np.abs(want).max(), 1e-3)
      np.testing.assert_allclose(got, want, atol=1e-3 * scale, err_msg=name)


@pytest.mark.parametrize("name", SUITES)
def test_our_side_of_every_suite_runs(name):
  suite = SUITES[name]
  # What is for accelerators alone has no size for a CPU.
  assert set(suite.sizes) in (set(SIZES), {"tiny", "large"})
  program = ours.build(suite.kind, suite.sizes["tiny"])
  program.call()
  assert program.first_s > 0
  assert (program.flop > 0) == (name != "sampling")
  assert (program.units > 0) == bool(suite.unit)


@pytest.mark.parametrize("name", [n for n, s in SUITES.items() if s.peers])
def test_the_eager_peer_of_every_suite_runs(name):
  _torch()
  from launch.bench_suites import torch_side

  suite = SUITES[name]
  program = torch_side.build(suite.kind, suite.sizes["tiny"], "eager")
  program.call()
  mine = ours.build(suite.kind, suite.sizes["tiny"])
  assert program.units == mine.units
  # Products and convolutions of both sides, up to what attention is counted as and what folding
  # the upsampling into the kernel saves.
  assert 0.5 < program.flop / mine.flop < 2


def test_a_sample_leaves_the_first_call_out():
  seconds = iter([0.2] + [0.004] * 100)
  calls = []

  def call():
    calls.append(1)
    end = worker.time.perf_counter() + next(seconds)
    while worker.time.perf_counter() < end:
      pass

  answer = worker.sample(call, 0.05)
  assert answer["calls"] == len(calls) - 1 >= 2
  assert 4 <= answer["ms"] < 50


def test_the_worker_keeps_programs_by_name():
  calls = []
  build = lambda kind, shapes, variant: Program(  # noqa: E731
    lambda: calls.append((kind, shapes, variant)), 1.5, 2.0, 3
  )
  answers = worker.Worker(build)
  request = {"name": "a", "kind": "k", "shapes": {"n": 1}, "variant": "v"}
  assert answers.answer({"do": "build", **request}) == {"first_s": 1.5, "flop": 2.0, "units": 3}
  assert answers.answer({"do": "sample", "name": "a", "seconds": 0.001})["calls"] > 0
  assert set(map(str, calls)) == {str(("k", {"n": 1}, "v"))}
  assert worker.Worker(build, lambda: {"versions": {}}).answer({"do": "about"}) == {"versions": {}}
  assert answers.answer({"do": "drop", "name": "a"}) == {"dropped": True}
  with pytest.raises(KeyError):
    answers.answer({"do": "sample", "name": "a", "seconds": 0.001})


class _Side:
  """A side that answers from memory and notes what it was asked."""

  def __init__(self, log, ms, fails=()):
    self.log, self.ms, self.fails = log, ms, fails

  def ask(self, *, do, name="", **rest):
    if do == "about":
      return {"versions": {"python": "3.13.0", "jax": "0.12.0"}, "machine": {"cpu": "x"}}
    self.log.append((do, name))
    if (do, name) in self.fails:
      return {"error": "Oops: no"}
    if do == "build":
      return {"first_s": 1.0, "flop": 4e9, "units": 16}
    return {"ms": self.ms[name], "calls": 1, "foreign": 0.0} if do == "sample" else {}


def _measure(fails=()):
  log, suite = [], SUITES["tae_encode"]
  times = {"mg_jax": 100, "torch eager": 180, "torch compiled": 150}
  side = _Side(log, times | {"torch AutoencoderKLCosmos": 300}, fails)
  rows = [Row(suite.name, driver.OURS, unit="frames")]
  rows += [Row(suite.name, f"torch {v}", True, unit="frames") for v in SAME_WORK]
  rows.append(Row(suite.name, "torch AutoencoderKLWan", note="not installed: pip install x"))
  rows.append(Row(suite.name, "torch AutoencoderKLCosmos", widths="64-128", unit="frames"))
  driver._suite(suite, "tiny", [(side, row) for row in rows], 2, lambda line: None)
  return rows, log


def test_without_peers_only_ours_is_measured():
  suites, side = driver.choose([]), _Side([], {"mg_jax": 1.0})
  options = {"size": "tiny", "runs": 1, "log": lambda line: None}
  parts = list(driver.run(suites, side, side, **options, peers=False))
  names = [name for name, suite in SUITES.items() if "default" in suite.sizes]
  # Suite by suite: what is measured can be told before the next one begins.
  found = [[(row.suite, row.name) for row in rows] for rows in parts]
  assert found == [[(name, driver.OURS)] for name in names]
  assert "layer_30b_73k" not in names


def test_peers_without_their_libraries_are_not_asked():
  side = _Side([], {"mg_jax": 1.0})
  options = {"size": "tiny", "runs": 1, "log": lambda line: None}
  (rows,) = driver.run(driver.choose(["tae_encode"]), side, side, **options)
  assert {row.note for row in rows[1:]} == {"not installed: pip install -e .[parity]"}
  assert {name for do, name in side.log if do != "drop"} == {"mg_jax"}
  widths = {row.name: row.widths for row in rows}
  assert widths["mg_jax"] == widths["torch eager"] == "8-16-16"
  assert widths["torch AutoencoderKLCosmos"].startswith("64-128-256-256")


def test_each_side_tells_its_own_versions():
  class Torch(_Side):
    def ask(self, **request):
      return {"versions": {"python": "3.11.7", "torch": "2.13.0", "mg_jax": "0"}}

  about = driver.about(_Side([], {}), Torch([], {}))
  assert about["versions"] == {
    "python": "3.13.0", "jax": "0.12.0", "peer_python": "3.11.7", "torch": "2.13.0", "mg_jax": "0",
  }  # fmt: skip
  assert about["machine"] == {"cpu": "x"}
  with pytest.raises(UserError, match="the benchmark does not start: the process ended: KeyError"):
    with driver.Side("nonsense", 1) as side:
      driver.about(side, side)


def test_samples_are_taken_in_turns():
  rows, log = _measure()
  names = ["mg_jax", "torch eager", "torch compiled", "torch AutoencoderKLCosmos"]
  assert [name for do, name in log if do == "sample"] == names * 2
  assert [row.samples for row in rows] == [[100] * 2, [180] * 2, [150] * 2, [], [300] * 2]
  assert ("build", "torch AutoencoderKLWan") not in log


def test_the_report_compares_with_the_fastest_same_work():
  rows, _ = _measure()
  assert report.ratios(rows) == {"tae_encode": 1.5}
  text = report.table(rows)
  line = next(line for line in text.splitlines() if line.startswith("torch eager"))
  assert line.split() == "torch eager 180.00 180.00 180.00 4.0 22 88.9 frames/s 1.0 1.80".split()
  assert "torch AutoencoderKLWan: not installed" in text
  assert "the fastest torch takes 1.50 times as long" in text
  assert "other processes" not in text
  rows[0].foreign[0] = 0.4
  assert "1 of 8 samples" in report.table(rows)


def test_peers_that_do_other_work_are_told_with_their_work():
  rows, _ = _measure()
  rows[-1].flop, rows[-1].units = 9e9, 18  # 0.5 GFLOP a frame, where ours are 0.25
  text = report.table(rows)
  assert "torch AutoencoderKLCosmos, widths 64-128 " in text
  assert (
    "tae_encode: of frames, torch AutoencoderKLCosmos at widths 64-128 takes 2.67 times our time"
    " for 2.00 times our multiply-adds" in text
  )
  found = json.loads(json.dumps(report.values(rows)))["tae_encode"]
  assert found["fastest_torch"] == 1.5
  assert found["mg_jax"]["ms"] == 100 and found["mg_jax"]["gflop"] == 4
  assert found["torch_AutoencoderKLWan"]["note"].startswith("not installed")
  peer = found["torch_AutoencoderKLCosmos"]
  assert peer["widths"] == "64-128" and peer["gflop"] == 9
  assert peer["time"] == pytest.approx(300 / 18 / (100 / 16)) and peer["work"] == 2
  assert peer["time_for_work"] == pytest.approx(peer["time"] / 2)


@pytest.mark.parametrize("do", ["build", "sample"])
def test_a_peer_that_fails_is_a_line(do):
  rows, log = _measure(fails={(do, "torch compiled")})
  assert rows[2].note == "Oops: no" and not rows[2].samples
  assert "torch compiled: Oops: no" in report.table(rows)
  assert report.ratios(rows) == {"tae_encode": 1.8}
  assert log.count(("sample", "torch compiled")) <= 1


def test_unknown_suites_are_told():
  assert [s.name for s in driver.choose([], "large")] == list(SUITES)
  assert driver.choose(["product"], "large") == [SUITES["product"]]
  with pytest.raises(UserError, match="suite product has no size 'default'; known are tiny, large"):
    driver.choose(["product"])
  with pytest.raises(UserError, match="no suite is named 'tea'; known are dit_block_forward"):
    driver.choose(["tea"])


def test_an_interpreter_that_is_not_there_is_told():
  with pytest.raises(UserError, match="no/python cannot be started .No such file"):
    driver.Side("torch", 1, python="no/python")


def test_a_side_that_dies_says_so():
  with driver.Side("nonsense", 1) as side:
    assert side.ask(do="drop", name="a")["error"] == "the process ended: KeyError: 'nonsense'"


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_json(tmp_path):
  out = tmp_path / "bench.json"
  command = [sys.executable, "launch/bench.py", "--suites=tae_encode,sampling", "--size=tiny"]
  done = subprocess.run(
    [*command, "--runs=2", f"--figure={out}"],
    cwd=_ROOT, capture_output=True, text=True, timeout=280,
    env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]
  document = json.loads(out.read_text())
  assert document["command"].startswith("python launch/bench.py --suites=tae_encode,sampling")
  assert document["machine"]["cores"] <= 2 and "jax" in document["versions"]
  values = document["values"]
  assert len(values["tae_encode"]["mg_jax"]["samples"]) == 2 and values["sampling"]["mg_jax"]["ms"]
  peer = values["tae_encode"]["torch_eager"]
  assert ("note" in peer) != bool(peer["samples"])
  assert "clips/s" in done.stdout and "sample 2 of 2" in done.stderr


@pytest.mark.parametrize("part", ["encode", "decode"])
def test_the_peer_computes_our_codec(part):
  """The weights of its convolutions and Snakes come from ours, by their order."""
  torch = _torch()
  pytest.importorskip("transformers.models.pe_audio")
  from launch.bench_suites import torch_side

  shapes = SUITES[f"dacvae_{part}"].sizes["tiny"]
  fn, (params, x), seconds = ours.function(f"dacvae_{part}", shapes)
  assert seconds == shapes["batch"] * shapes["seconds"]
  module = torch_side.codec(shapes["model"])[part == "decode"]
  # Not how well they agree, which tests/parity looks at, but that the work is the same.
  with torch.inference_mode():
    got = module(torch.tensor(np.array(x)).reshape(shapes["batch"], *_channels_first(x, part)))
  want = jax.eval_shape(fn, params, x)
  want = want[0].shape[1:] if part == "encode" else (shapes["latents"] * 8,)
  model = shapes["model"]
  assert tuple(got.shape[1:]) == (
    (2 * model["latent"], want[0]) if part == "encode" else (1, want[0])
  )
  role = {"encode": ("encoder", "posterior"), "decode": ("decoder", "expand")}[part]
  own = {name: leaf for name, leaf in params.items() if name.startswith(role)}
  assert sum(p.numel() for p in module.parameters()) == sum(
    leaf.size for leaf in jax.tree.leaves(own)
  )


def _channels_first(x, part):
  return (1, x.shape[1]) if part == "encode" else (x.shape[2], x.shape[1])
