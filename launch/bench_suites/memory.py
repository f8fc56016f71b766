"""Checks the peak memory of a training step against its plan, on one device.

python -m launch.bench_suites.memory OUT.json

Every case is planned for a GPU of the attached kind, then run for two steps on zeros. Prints and
writes the bytes of both; exits with code 1 if they differ by more than `LIMIT`.
"""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments import t2v_256, tae
from mg_jax.core import config as configs
from mg_jax.core.mesh import make_mesh
from mg_jax.plan.training import abstract_training
from mg_jax.stages.experiment import optim_config
from mg_jax.train.loop import TrainConfig
from mg_jax.train.optim import build_optimizers
from mg_jax.train.state import create_state
from mg_jax.train.step import build_step

LIMIT = 0.1


def cases() -> dict[str, ConfigDict]:
  """The 1B generator, with and without recomputation, and the autoencoder at paper width."""
  generator = t2v_256.get_config("model=1b")
  generator.mesh = (1, 1, 1, 1)
  generator.data.update(durations="single", frames=128, height=256, width=256, global_batch=2)
  spared = generator.copy_and_resolve_references()
  spared.model.dit.remat = "full"
  spared.data.global_batch = 8
  autoencoder = tae.get_config()
  autoencoder.mesh = (1, 1, 1, 1)
  autoencoder.data.update(lengths=(), frames=16, height=256, width=256, global_batch=1)
  return {
    "generator 1b": generator, "generator 1b, full remat": spared, "autoencoder": autoencoder,
  }  # fmt: skip


def measured(config: ConfigDict) -> int:
  """Peak bytes in use on the device."""
  config = configs.to_dict(config)
  objective, shapes, _ = abstract_training(config)
  settings = configs.build(TrainConfig, config["train"], where="train")
  optimizers = build_optimizers(optim_config(config), objective.roles)
  mesh = make_mesh((1, 1, 1, 1), jax.devices()[:1])
  batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  key = jax.random.key(0)
  state = create_state(objective, optimizers, mesh, batch, key, **settings.state_args)
  step = build_step(objective, optimizers, settings, mesh, state=state)
  for _ in range(2):
    state, metrics = step(state, batch, key, jnp.float32(0))
  jax.block_until_ready(metrics)
  return jax.devices()[0].memory_stats()["peak_bytes_in_use"]


def planned(config: ConfigDict, target: str) -> int:
  """Peak bytes of the same step according to its plan."""
  from mg_jax.core.topology import GIB, find_pod
  from mg_jax.plan.planner import plan

  pod = find_pod("cuda", topology=None, slices=1, target=target, gpus=1, hosts=1)
  return round(plan(config, pod).memory.peak * GIB)


def main(argv: list[str]) -> int:
  if len(argv) > 2:  # one case per process, as peaks are per process
    config = cases()[argv[2]]
    of = planned(config, argv[3]) if len(argv) > 3 else measured(config)
    pathlib.Path(argv[1]).write_text(json.dumps(of))
    return 0
  out, rows = pathlib.Path(argv[1]), {}
  kind = jax.devices()[0].device_kind
  target = next((name for name in ("h200", "h100") if name.upper() in kind), "h200")
  for name in cases():
    one = out.with_suffix(".one.json")
    command = [sys.executable, "-m", "launch.bench_suites.memory", str(one), name]
    row = {}
    for what, extra in (("measured", []), ("planned", [target])):
      subprocess.run(command + extra, check=True)
      row[what] = json.loads(one.read_text())
    one.unlink()
    rows[name] = row | {"ratio": row["planned"] / row["measured"]}
    sizes = ", ".join(f"{what} {size / 2**30:.2f} GiB" for what, size in row.items())
    print(f"{name:30} {sizes}, ratio {rows[name]['ratio']:.3f}", flush=True)
  out.write_text(json.dumps({"device": kind, "cases": rows}, indent=2) + "\n")
  return int(any(abs(row["ratio"] - 1) > LIMIT for row in rows.values()))


if __name__ == "__main__":
  sys.exit(main(sys.argv))
