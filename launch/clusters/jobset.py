"""The Kubernetes manifest of a training on TPU slices of GKE: a JobSet with one pod per host."""

import re
from collections.abc import Sequence
from typing import Any

from mg_jax.core import flags
from mg_jax.core.errors import UserError
from mg_jax.core.topology import parse_topology

# Labels of the node pools of a chip.
ACCELERATORS = {
  "v5e": "tpu-v5-lite-podslice", "v5p": "tpu-v5p-slice", "v6e": "tpu-v6e-slice", "tpu7x": "tpu7x",
}  # fmt: skip
STOPPED = 75  # exit code of a run that saved and should be restarted
GRACE = 300  # seconds between SIGTERM and SIGKILL, for a run to save


def manifest(
  name: str,
  image: str,
  topology: str,
  arguments: Sequence[str],
  *,
  slices: int = 1,
  host_chips: int = 4,
  restarts: int = 20,
  service_account: str = "",
) -> dict[str, Any]:
  """A JobSet that trains, and restarts all pods if one ends before the run does.

  Args:
    name: name of the JobSet; lower case, digits and dashes.
    image: container with a checkout as its working directory and mg_jax[tpu] installed.
    topology: topology of a slice, such as "v5p:4x4x4".
    arguments: flags of launch/train.py.
    slices: number of slices, joined by the data-centre network.
    host_chips: chips per host; a slice with fewer is one host.
    restarts: maximal restarts of all pods.
    service_account: Kubernetes service account of the pods, "" for the namespace's default.

  Raises:
    UserError: on an invalid name, topology or count, and if config or workdir is missing.
  """
  chip, sides = parse_topology(topology)
  chips = 1
  for side in sides:
    chips *= side
  # Pod names append to it, and all 63 characters are the limit.
  if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", name):
    raise UserError(f"name {name!r} is invalid; give up to 40 of a-z, 0-9 and -, a letter first")
  if min(slices, host_chips) < 1 or restarts < 0:
    raise UserError("give slices and host_chips of at least 1, restarts of at least 0")
  held = min(host_chips, chips)
  if chips % held:
    raise UserError(f"{chips} chips of {topology} do not divide over hosts of {host_chips}")
  for flag in ("--config=", "--workdir="):
    if not any(argument.startswith(flag) for argument in arguments):
      raise UserError(f"{flag[:-1]} is missing; give the flags of launch/train.py after --")
  container = {
    "name": "train",
    "image": image,
    "command": ["python", "launch/train.py", "--distributed", f"--stopped_code={STOPPED}"],
    "args": list(arguments),
    "env": [{"name": key, "value": value} for key, value in flags.environment(chip).items()],
    "resources": {"limits": {"google.com/tpu": held}, "requests": {"google.com/tpu": held}},
    "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
  }
  pod = {
    "restartPolicy": "Never",
    "terminationGracePeriodSeconds": GRACE,
    "nodeSelector": {
      "cloud.google.com/gke-tpu-accelerator": ACCELERATORS[chip],
      "cloud.google.com/gke-tpu-topology": "x".join(map(str, sides)),
    },
    "containers": [container],
    # The data workers pass batches through shared memory; a container's default is 64 MB.
    "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
  }
  if service_account:
    pod["serviceAccountName"] = service_account
  hosts = chips // held
  job = {
    "parallelism": hosts, "completions": hosts, "completionMode": "Indexed",
    # A single pod cannot rejoin a run, so none is replaced: the set restarts.
    "backoffLimit": 0, "template": {"spec": pod},
  }  # fmt: skip
  return {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": {
      "name": name,
      "annotations": {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
      },
    },
    "spec": {
      "failurePolicy": {"maxRestarts": restarts},
      "replicatedJobs": [{"name": "slice", "replicas": slices, "template": {"spec": job}}],
    },
  }
