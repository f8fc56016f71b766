"""Plans an experiment for a pod, without one: memory, traffic, time bounds. See docs/plans.md.

python launch/plan.py --config=experiments/t2v_768.py --topology=v5p:8x8x8 --mesh=1,64,1,8 \
  --remat=full --config.data.global_batch=64
python launch/plan.py --config=experiments/tae.py --platform=cuda --target=h200 --gpus=8 --hosts=1 \
  --what=decode --frames=256 --height=768 --width=768

Exit code 0 if it fits, 1 if it does not, 2 on a mistake.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags
from ml_collections import config_flags

from mg_jax.core import config
from mg_jax.core.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment to plan.")
_PLATFORM = flags.DEFINE_enum("platform", "tpu", ["tpu", "cuda"], "Kind of accelerator.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "Chip and shape, such as v5p:8x8x8 or v6e:16x16.")
_SLICES = flags.DEFINE_integer("slices", 1, "Slices, joined by the data-centre network.")
_TARGET = flags.DEFINE_string("target", "h200", "GPU for --platform=cuda: h100 or h200.")
_GPUS = flags.DEFINE_integer("gpus", 8, "Number of GPUs on all hosts.")
_HOSTS = flags.DEFINE_integer("hosts", 1, "Number of hosts.")
_WHAT = flags.DEFINE_string("what", "train", "Program: train, sample, encode or decode.")
_SIZE = {
  name: flags.DEFINE_integer(name, None, f"{name.title()} of a clip; default the config's.")
  for name in ("frames", "height", "width")
}
_MESH = flags.DEFINE_list("mesh", [], "Mesh data,fsdp,context,tensor; default the config's.")
_REMAT = flags.DEFINE_string("remat", "", "Rematerialisation policy; default the config's.")
_QUICK = flags.DEFINE_bool("quick", False, "Compile in half the time, without overlap.")
_SEARCH = flags.DEFINE_bool("search", False, "Try meshes and policies, and rank those that fit.")
_BUDGET = flags.DEFINE_integer("budget", 6, "Number of plans that a search compiles.")
_PRICE = flags.DEFINE_float("price", None, "Price of a chip-hour, for costs; default none.")
_JSON = flags.DEFINE_string("json", "", "File to write the plan to.")


def main(argv: list[str]) -> int:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  if _CONFIG.value is None:
    raise UserError("give --config=experiments/t2v_768.py and --topology=v5p:8x8x8, or the like")
  if not all(size.lstrip("-").isdigit() for size in _MESH.value):
    raise UserError(f"--mesh={','.join(_MESH.value)}: give four whole numbers such as 1,64,1,8")
  # The compiler is selected by name; jax itself must not look for an accelerator. The config has
  # already imported jax, so its environment variable is no longer read.
  import jax

  jax.config.update("jax_platforms", "cpu")
  from mg_jax.core.topology import find_pod
  from mg_jax.plan import report as plan_report
  from mg_jax.plan.planner import plan

  pod = find_pod(
    _PLATFORM.value, topology=_TOPOLOGY.value, slices=_SLICES.value, target=_TARGET.value,
    gpus=_GPUS.value, hosts=_HOSTS.value,
  )  # fmt: skip
  size = {name: flag.value for name, flag in _SIZE.items() if flag.value is not None}
  mesh = [int(size) for size in _MESH.value] or None
  if _SEARCH.value:
    from mg_jax.plan import search as plan_search

    return plan_search.main(_CONFIG.value, pod, budget=_BUDGET.value, price=_PRICE.value)
  result = plan(
    _CONFIG.value, pod, what=_WHAT.value, mesh=mesh, remat=_REMAT.value, size=size,
    price=_PRICE.value, quick=_QUICK.value,
  )  # fmt: skip
  print(plan_report.text(result.to_dict()))
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(result.to_dict(), indent=1) + "\n")
  return 0 if result.fits else 1


if __name__ == "__main__":
  # Programs for devices that are not attached cannot be read from the cache.
  config.run(main, cached=False)
