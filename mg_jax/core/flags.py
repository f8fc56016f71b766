"""Compiler flags per accelerator: one table, and the environment variables it becomes.

The compilers read their flags once, when jax starts its backend, so a launcher puts them into the
environment of the process that it starts. A flag that a compiler does not know ends the process, so
the tests check every flag of this table with the installed compilers. TPU flags are those of
published training set-ups; what each chip gains from them has not been measured here.
"""

import jax

from mg_jax.core.errors import UserError

# Collectives run beside compute, and so do copies of offloaded activations.
_TPU = {
  "xla_tpu_enable_latency_hiding_scheduler": "true",
  "xla_tpu_enable_async_collective_fusion": "true",
  "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
  "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
  "xla_tpu_overlap_compute_collective_tc": "true",
  "xla_enable_async_all_gather": "true",
  "xla_tpu_enable_async_all_to_all": "true",
}
_DATA_PARALLEL = {  # of slices: their all-reduce goes over the data-centre network
  "xla_tpu_enable_data_parallel_all_reduce_opt": "true",
  "xla_tpu_data_parallel_opt_different_sized_ops": "true",
}
# libtpu 0.0.52 refuses all-gathers within fusions on v5p: it names v5e as the chip for them.
_NO_FUSED_GATHER = {"xla_tpu_enable_async_collective_fusion_fuse_all_gather": "false"}
# These chips have SparseCores, which then run collectives instead of the TensorCore. All-reduces
# stay, which tpu7x has to be told: with them there too, libtpu 0.0.42 ends its process at the
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
  # One over NVLink beside one over InfiniBand: with one at a time, weights came late.
  "xla_gpu_experimental_parallel_collective_overlap_limit": "2",
}
# As options of a compilation the compiler of jax 0.11 no longer knows them.
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
    # Without the platform named, jax would train on the CPU where the TPU does not start.
    return {"JAX_PLATFORMS": "tpu,cpu", "LIBTPU_INIT_ARGS": _line(TPU_FLAGS[chip])}
  if chip in GPU_FLAGS:
    return {
      "JAX_PLATFORMS": "cuda,cpu",
      "XLA_FLAGS": _line(GPU_FLAGS[chip]),
      "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9",
    }
  raise UserError(f"no chip is named {chip!r}; known are {', '.join((*TPU_FLAGS, *GPU_FLAGS))}")


def compiler_options(chip: str) -> dict[str, str | bool | int]:
  """The same flags as arguments of one compilation.

  The compiler for GPUs wants values of the right type, that for TPUs text.
  """
  table = {**TPU_FLAGS, **GPU_FLAGS}[chip]
  if chip in TPU_FLAGS:
    return dict(table)
  words = {"true": True, "false": False}
  return {name: words[value] if value in words else int(value) for name, value in table.items()}


def _line(flags: dict[str, str]) -> str:
  return " ".join(f"--{name}={value}" for name, value in flags.items())
