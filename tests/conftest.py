"""The test process: eight CPU devices, a compile cache, checked shapes, real media if present.

Everything here must happen before the first import of jax, which reads its environment once.
"""

import os
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

from mg_jax.core import compile_cache

_DEVICES = "--xla_force_host_platform_device_count=8"

os.environ["JAX_PLATFORMS"] = "cpu"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()
compile_cache.enable()  # as environment variables, which also reach the processes that tests start
# Tests compile for longer than they compute: LLVM's optimizations cost more than they save. 0
# compiles as runs do.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jaxtyping  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

# Shapes in annotations, and the types of module fields, are checked here and never in runs.
CHECKED = ("kernels", "nn", "losses", "models", "sampling", "metrics")
jaxtyping.install_import_hook([f"mg_jax.{folder}" for folder in CHECKED], "beartype.beartype")

flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def media() -> Path:
  """A folder of real clips, faces and sounds; its place is told by MG_TEST_MEDIA."""
  default = Path(__file__).resolve().parents[2] / "shared" / "data"
  folder = Path(os.environ.get("MG_TEST_MEDIA", default))
  if not folder.is_dir():
    pytest.skip(f"no media at {folder}; set MG_TEST_MEDIA to a folder that has them")
  return folder


@pytest.fixture
def run_main(capsys) -> Iterator[Callable[..., str]]:
  """Runs a main of launch/ in this process: (name, *arguments) -> what it printed."""
  known = set(flags.FLAGS)

  def forget() -> None:
    for name in set(flags.FLAGS) - known:
      delattr(flags.FLAGS, name)

  def run(name: str, *arguments: str) -> str:
    forget()
    path = Path(__file__).resolve().parents[1] / "launch" / f"{name}.py"
    main = runpy.run_path(str(path), run_name="main_under_test")["main"]
    main(flags.FLAGS([path.name, *arguments], known_only=True))
    return capsys.readouterr().out

  yield run
  forget()
