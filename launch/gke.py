"""Trains on TPU slices in Google Kubernetes Engine: renders a JobSet and applies it.

python launch/gke.py --name=t2v --image=IMAGE --topology=v5p:4x4x4 --dry_run -- \
  --config=experiments/t2v_256.py --workdir=gs://BUCKET/t2v --config.train.steps=1000

Arguments after -- are flags of launch/train.py. See docs/launch_gke.md.
"""

import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError

_NAME = flags.DEFINE_string("name", None, "Name of the JobSet.")
_IMAGE = flags.DEFINE_string("image", None, "Container image with the checkout and mg_jax[tpu].")
_TOPOLOGY = flags.DEFINE_string("topology", None, "Slice topology, such as v5p:4x4x4 or v6e:16x16.")
_SLICES = flags.DEFINE_integer("slices", 1, "Number of slices that train together.")
_HOST_CHIPS = flags.DEFINE_integer("host_chips", 4, "Chips per host of the node pool.")
_RESTARTS = flags.DEFINE_integer("restarts", 20, "Maximal restarts of the pods.")
_NAMESPACE = flags.DEFINE_string("namespace", "default", "Kubernetes namespace.")
_ACCOUNT = flags.DEFINE_string("service_account", "", "Kubernetes service account of the pods.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the manifest and the command, run nothing.")


def main(argv: list[str]) -> None:
  for name, flag in (("name", _NAME), ("image", _IMAGE), ("topology", _TOPOLOGY)):
    if not flag.value:
      raise UserError(f"--{name} is missing; see --help")
  # Imported late: --help and mistakes should not wait for a library.
  import yaml

  from launch.clusters import jobset

  manifest = jobset.manifest(
    _NAME.value, _IMAGE.value, _TOPOLOGY.value, argv[1:], slices=_SLICES.value,
    host_chips=_HOST_CHIPS.value, restarts=_RESTARTS.value, service_account=_ACCOUNT.value,
  )  # fmt: skip
  text = yaml.safe_dump(manifest, sort_keys=False, width=1000)
  command = ["kubectl", "apply", f"--namespace={_NAMESPACE.value}", "--filename=-"]
  if _DRY_RUN.value:
    print(f"# {' '.join(command)} <<EOF\n{text}", end="")
    return
  if not shutil.which(command[0]):
    raise UserError("kubectl is not on PATH; install it, or apply the output of --dry_run")
  if subprocess.run(command, input=text, text=True, check=False).returncode:
    raise UserError("kubectl rejected the manifest, see above")


if __name__ == "__main__":
  config.run(main)
