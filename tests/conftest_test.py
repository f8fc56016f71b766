"""The test process is set up as promised: fake devices, a private cache, checked shapes."""

import os
import stat
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from absl import flags

from mg_jax.losses import reconstruction


@pytest.mark.smoke
def test_eight_cpu_devices():
  assert [d.platform for d in jax.devices()] == ["cpu"] * 8


def test_compiled_programs_are_kept_where_nobody_else_writes():
  folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
  assert jax.config.jax_compilation_cache_dir == str(folder)
  assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_programs_are_compiled_quickly_unless_told_otherwise():
  quick = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
  assert jax.config.read("jax_disable_most_optimizations") == quick


@pytest.mark.smoke
def test_shapes_in_annotations_are_checked():
  with pytest.raises(jaxtyping.TypeCheckError, match="outlier_penalty"):
    reconstruction.outlier_penalty(jnp.ones((2, 3)))


def test_flags_can_be_read():
  assert flags.FLAGS.is_parsed()


def test_media_are_real_files(media):
  assert any(p.suffix == ".mp4" for p in media.rglob("*"))
