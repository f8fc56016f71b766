"""Compiler flags per accelerator: one table, and the environment variables it becomes.

Compilers read their flags once, when jax starts its backend, so a launcher sets them in the
environment of the process that it starts. A flag that a compiler does not know aborts the process,
so the tests check every flag of this table with the installed compilers. TPU flags are those of
published training set-ups; their effect on each chip has not been measured here.
"""

import jax

from mg_jax.core.errors import UserError

# Overlap collectives with compute, and copies of offloaded activations too.
_TPU = {
  "xla_tpu_enable_latency_hiding_scheduler": "true",
  "xla_tpu_enable_async_collective_fusion": "true",
  "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
  "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
  "xla_tpu_overlap_compute_collective_tc": "true",
  "xla_enable_async_all_gather": "true",
  "xla_tpu_enable_async_all_to_all": "true",
}
_DATA_PARALLEL = {  # over slices: their all-reduce uses the data-centre network
  "xla_tpu_enable_data_parallel_all_reduce_opt": "true",
  "xla_tpu_data_parallel_opt_different_sized_ops": "true",
}
# libtpu 0.0.52 rejects fused all-gathers on v5p: it supports them on v5e.
_NO_FUSED_GATHER = {"xla_tpu_enable_async_collective_fusion_fuse_all_gather": "false"}
# These chips have SparseCores, which then run collectives instead of the TensorCore. All-reduces
# stay on it, which tpu7x needs a flag for: offloading them too, libtpu 0.0.42 crashes on the
# paper's model on both chips.
_SPARSE_CORE = {
  **_TPU,
  **_NO_FUSED_GATHER,
  "xla_tpu_enable_sparse_core_collective_offload_all_gather": "true",
  "xla_tpu_enable_sparse_core_collective_offload_reduce_scatter": "true",
  "xla_tpu_enable_sparse_core_collective_offload_all_reduce": "false",
}

TPU_FLAGS: dict[str, dict[str, str]] = {
  "v5e": {**_TPU, **_DATA_PARALLEL},
  "v5p": {**_TPU, **_NO_FUSED_GATHER, **_DATA_PARALLEL},
  "v6e": {**_SPARSE_CORE, **_DATA_PARALLEL, "xla_tpu_scoped_vmem_limit_kib": "98304"},
  "tpu7x": {**_SPARSE_CORE, **_DATA_PARALLEL, "xla_tpu_scoped_vmem_limit_kib": "65536"},
}

_GIB = str(1 << 30)
_HOPPER = {
  "xla_gpu_enable_latency_hiding_scheduler": "true",
  "xla_gpu_all_reduce_combine_threshold_bytes": _GIB,
  "xla_gpu_all_gather_combine_threshold_bytes": _GIB,
  "xla_gpu_reduce_scatter_combine_threshold_bytes": _GIB,
  "xla_gpu_enable_while_loop_double_buffering": "true",
  # One over NVLink and one over InfiniBand at a time: with only one in all, weights came late.
  "xla_gpu_experimental_parallel_collective_overlap_limit": "2",
}
# The compiler of jax 0.11 no longer accepts these as compilation options.
if jax.__version_info__ < (0, 11):
  _HOPPER |= {
    f"xla_gpu_enable_pipelined_{name}": "true"
    for name in ("all_gather", "reduce_scatter", "all_reduce")
  }
GPU_FLAGS: dict[str, dict[str, str]] = {"h100": dict(_HOPPER), "h200": dict(_HOPPER)}


def environment(chip: str) -> dict[str, str]:
  """The environment variables to start jax with on a chip.

  Raises:
    UserError: on a chip that is not in the table.
  """
  if chip in TPU_FLAGS:
    # Without the platform set, jax would train on the CPU if the TPU fails to start.
    return {"JAX_PLATFORMS": "tpu,cpu", "LIBTPU_INIT_ARGS": _line(TPU_FLAGS[chip])}
  if chip in GPU_FLAGS:
    return {
      "JAX_PLATFORMS": "cuda,cpu",
      "XLA_FLAGS": _line(GPU_FLAGS[chip]),
      "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9",
    }
  raise UserError(f"no chip is named {chip!r}; known are {', '.join((*TPU_FLAGS, *GPU_FLAGS))}")


def compiler_options(chip: str) -> dict[str, str | bool | int]:
  """The same flags as options of one compilation.

  The GPU compiler wants values of the right type, the TPU compiler wants text.
  """
  table = {**TPU_FLAGS, **GPU_FLAGS}[chip]
  if chip in TPU_FLAGS:
    return dict(table)
  words = {"true": True, "false": False}
  return {name: words[value] if value in words else int(value) for name, value in table.items()}


def _line(flags: dict[str, str]) -> str:
  return " ".join(f"--{name}={value}" for name, value in flags.items())
