"""Checks the accelerator against the CPU: kernels, losses and their gradients.

python -m launch.bench_suites.parity OUT.json

Every case runs on both in float32 at the highest matmul precision, attention kernels against the
reference; kernels that only support half precision run in it. Prints and writes the largest
difference relative to the largest value; exits with code 1 if one exceeds `LIMIT`, or
`HALF_LIMIT` in half precision. Without an accelerator the CPU is compared with itself.
"""

import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core import config
from mg_jax.core.sharding import unbox
from mg_jax.kernels import attention, xla
from mg_jax.models import zoo
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.generator import Generator
from mg_jax.objectives.autoencoding import Autoencoding
from mg_jax.objectives.base import Objective
from mg_jax.objectives.flow_matching import FlowMatching

LIMIT, HALF_LIMIT = 2e-4, 2e-2
# Queries, keys, heads, head size, and whether keys are masked.
_ATTENTION = ((300, 300, 4, 64, False), (1024, 77, 8, 64, True), (2048, 2048, 16, 128, False))


def main(argv: list[str]) -> int:
  jax.config.update("jax_default_matmul_precision", "highest")
  device, host = jax.devices()[0], jax.devices("cpu")[0]
  print(f"{device.device_kind} against the CPU, limit {LIMIT:g}")
  worst, failed = {}, []
  for name, make in _cases(device.platform):
    expected, fn, args = make()
    here = jax.jit(expected)(*jax.device_put(args, host))
    there = jax.jit(fn)(*jax.device_put(args, device))
    worst[name] = max(jax.tree.leaves(jax.tree.map(_difference, here, there)))
    limit = HALF_LIMIT if name.endswith("bfloat16") else LIMIT
    failed += [name] if worst[name] > limit else []
    print(f"{name:40} {worst[name]:.1e}", flush=True)
  result = {"device": device.device_kind, "jax": jax.__version__, "differences": worst}
  pathlib.Path(argv[1]).write_text(json.dumps(result, indent=2) + "\n")
  return int(bool(failed))


def _difference(a: Any, b: Any) -> float:
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  # NaN on either side must fail.
  return float(np.nan_to_num(np.abs(a - b).max() / max(np.abs(a).max(), 1e-6), nan=np.inf))


def _cases(platform: str) -> Iterator[tuple[str, Callable[[], tuple[Callable, Callable, tuple]]]]:
  names = {"gpu": "cuda"}.get(platform, platform)
  for candidate in attention.candidates(names):
    for shape in _ATTENTION:
      label = "x".join(map(str, shape[:4])) + (" masked" if shape[4] else "")
      queries, keys, heads, size, masked = shape
      sides = [(2, length, heads, size) for length in (queries, keys)]
      whole = candidate.supports(*sides, jnp.float32, masked, names) is None
      dtype = "float32" if whole else "bfloat16"
      yield (
        f"attention {candidate.name} {label}" + ("" if whole else f" {dtype}"),
        lambda c=candidate, s=shape, d=dtype: _attention(c, d, *s),
      )
  yield "autoencoder", _autoencoder
  yield "generator", _generator


def _attention(candidate, dtype, queries, keys, heads, size, masked):
  keyring = jax.random.split(jax.random.key(0), 4)
  q = jax.random.normal(keyring[0], (2, queries, heads, size), dtype)
  k, v = (jax.random.normal(key, (2, keys, heads, size), dtype) for key in keyring[1:3])
  mask = jnp.arange(keys) < jnp.array([[keys], [keys // 2]]) if masked else None
  weight = jax.random.normal(keyring[3], q.shape).astype(jnp.float32)

  def gradients(run):
    def loss(q, k, v):
      out = run(q, k, v, mask_BS=mask, scale=size**-0.5)
      return jnp.sum(out.astype(jnp.float32) * weight), out

    return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)

  return gradients(xla.reference), gradients(candidate.run), (q, k, v)


def _step(objective: Objective, batch: dict[str, Any]) -> tuple[Callable, Callable, tuple]:
  """Loss and gradients of the first role, with all parameters non-zero."""
  role, key = objective.roles[0], jax.random.key(1)
  params = unbox(objective.init(jax.random.key(0), batch))
  leaves, tree = jax.tree.flatten(params)
  noise = [0.02 * jax.random.normal(jax.random.fold_in(key, i), x.shape)
           for i, x in enumerate(leaves)]  # fmt: skip
  params = jax.tree.unflatten(tree, [x + n for x, n in zip(leaves, noise, strict=True)])

  def loss(mine, params, batch):
    return objective.loss(role, params | {role: mine}, batch, key, jnp.int32(0), {})[0]

  return jax.value_and_grad(loss), jax.value_and_grad(loss), (params[role], params, batch)


def _autoencoder():
  model = TAE(channels=32, multipliers=(1, 2), blocks=1, patch=(4, 4, 4), groups=8)
  video = np.random.default_rng(0).integers(0, 256, (2, 16, 32, 32, 3), np.uint8)
  return _step(Autoencoding(model), {"video": jnp.asarray(video)})


def _generator():
  objective = FlowMatching(config.build(Generator, zoo.generator("tiny")))
  latent = jax.random.normal(jax.random.key(2), (4, 2, 8, 8, 16))
  text = {"ids": jnp.full((4, 24), 100), "mask": jnp.ones((4, 24), bool)}
  return _step(objective, {"latent": latent, "text": text, "index": jnp.arange(4)})


if __name__ == "__main__":
  sys.exit(main(sys.argv))
