"""Plans an experiment's training step for a TPU pod that is not here: memory, traffic, least time.

python launch/plan.py --config=experiments/t2v_768.py --topology=v5p:8x8x8 --mesh=1,64,1,8 \
  --remat=full --config.data.global_batch=64

Exit code 0 when the step fits, 1 when it does not, 2 on a mistake.
"""

import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags
from ml_collections import config_flags

from mg_jax.core import config
from mg_jax.core.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment to plan.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "Chip and shape, such as v5p:8x8x8 or v6e:16x16.")
_SLICES = flags.DEFINE_integer("slices", 1, "Slices of it, joined by the data-centre network.")
_MESH = flags.DEFINE_list("mesh", [], "data,fsdp,context,tensor, instead of the config's.")
_REMAT = flags.DEFINE_string("remat", "", "Rematerialisation policy, instead of the config's.")
_PRICE = flags.DEFINE_float("price", None, "Price of a chip-hour, for the cost of a step.")
_JSON = flags.DEFINE_string("json", "", "File to write the plan to.")
_ROW = flags.DEFINE_bool("row", False, "Print only a row of the table in docs/plans.md.")


def main(argv: list[str]) -> int:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  if _CONFIG.value is None or not _TOPOLOGY.value:
    raise UserError("give --config=experiments/t2v_768.py and --topology=v5p:8x8x8, or the like")
  if not all(size.lstrip("-").isdigit() for size in _MESH.value):
    raise UserError(f"--mesh={','.join(_MESH.value)}: give four whole numbers such as 1,64,1,8")
  # The compiler for TPUs is asked for by name; jax itself must not look for one.
  os.environ["JAX_PLATFORMS"] = "cpu"
  from mg_jax.train import plan_report
  from mg_jax.train.plan import plan

  result = plan(
    _CONFIG.value, _TOPOLOGY.value, slices=_SLICES.value,
    mesh=[int(size) for size in _MESH.value] or None, remat=_REMAT.value, price=_PRICE.value,
  )  # fmt: skip
  print(plan_report.row(result) if _ROW.value else plan_report.text(result))
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(result.to_dict(), indent=2) + "\n")
  return 0 if result.fits else 1


if __name__ == "__main__":
  config.run(main)
