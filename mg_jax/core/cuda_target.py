"""Compile-only devices of hosts with NVIDIA GPUs.

XLA takes a description of the card instead of querying one. It needs jax's CUDA plugin, and lowers
fused attention only if cuDNN is installed too; neither needs a GPU or its driver.
"""

import importlib.util
from collections.abc import Sequence

import jax

from mg_jax.core.chips import CHIPS, GB, GIB, GPUS
from mg_jax.core.errors import UserError

# Compute capability 9.0, for all of `GPUS`: CUDA C++ Programming Guide, table of technical
# specifications.
_DESCRIPTION = """
gpu_device_info {{
  name: "{name}" device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  device_memory_size: {memory} memory_bandwidth: {bandwidth}
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 l2_cache_size: 52428800
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  device_address_bits: 64 driver_version: "13.0.0" runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0" dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{name}"
"""

_INSTALL = "compiling for a GPU needs its compiler: pip install -e .[aot-cuda]"
_CUDNN = (
  "fused attention for a GPU needs cuDNN: pip install "
  "nvidia-cudnn-cu13, part of mg_jax[aot-cuda]"
)


def description(target: str) -> str:
  """XLA's description of a card, as a text protocol buffer."""
  chip = CHIPS[target]
  return _DESCRIPTION.format(
    name=f"NVIDIA {target.upper()}", memory=round(chip.memory_gib * GIB),
    bandwidth=round(chip.hbm_gb_s * GB),
  )  # fmt: skip


def gpu_devices(target: str, *, gpus: int, hosts: int) -> Sequence[jax.Device]:
  """Devices of hosts with the same number of cards each.

  Args:
    target: a card, "h100" or "h200".
    gpus: on all hosts together.
    hosts: joined by InfiniBand; the cards of one host are joined by NVLink.

  Raises:
    UserError: on an unknown card, on hosts that do not share the cards evenly, and without the
      plugin or cuDNN.
  """
  if target not in GPUS:
    raise UserError(f"no GPU is named {target!r}; known are {', '.join(GPUS)}")
  if gpus < 1 or hosts < 1 or gpus % hosts:
    near = max(1, round(gpus / max(1, hosts))) * max(1, hosts)
    raise UserError(
      f"{gpus} GPUs do not divide over {hosts} hosts; give --hosts and --gpus with as many on "
      f"each, such as --hosts={max(1, hosts)} --gpus={near}"
    )
  if gpus // hosts > 8:
    raise UserError(
      f"{gpus // hosts} GPUs on a host are more than NVLink joins; give at least "
      f"--hosts={-(-gpus // 8)}"
    )
  if not _installed("jax_plugins.xla_cuda13") or not _installed("jax_cuda13_plugin"):
    raise UserError(_INSTALL)
  if not _installed("nvidia.cudnn"):
    raise UserError(_CUDNN)
  from jax.experimental import topologies

  topology = topologies.get_topology_desc(
    platform="cuda", topology_name="", target_config=description(target),
    topology=f"1x{hosts}x{gpus // hosts}",
  )  # fmt: skip
  return topology.devices


def installed() -> bool:
  """Whether programs can be compiled for GPUs here."""
  return all(map(_installed, ("jax_plugins.xla_cuda13", "jax_cuda13_plugin", "nvidia.cudnn")))


def _installed(module: str) -> bool:
  try:
    return importlib.util.find_spec(module) is not None
  except ModuleNotFoundError:  # the parent package
    return False
