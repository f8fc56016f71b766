import os
import stat
import subprocess
import sys

import jax
import pytest

from mg_jax.core import compile_cache
from mg_jax.core.errors import UserError

_NAMES = (
  "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs",
  "jax_persistent_cache_min_entry_size_bytes",
)  # fmt: skip


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
  """No variable of jax is set, and the settings of this process come back afterwards."""
  before = {name: getattr(jax.config, name) for name in _NAMES}
  for name in _NAMES:
    # What the code under test sets is removed too.
    monkeypatch.setenv(name.upper(), "")
    monkeypatch.delenv(name.upper())
  monkeypatch.delenv(compile_cache.VARIABLE, raising=False)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def test_the_cache_is_on_by_default_and_private(tmp_path):
  folder = compile_cache.enable()
  assert folder.startswith(str(tmp_path / "home" / "mg_jax" / "xla"))
  assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
  assert jax.config.jax_compilation_cache_dir == folder
  assert os.environ["JAX_COMPILATION_CACHE_DIR"] == folder, "for processes that are started"


def test_a_variable_names_another_folder_a_bucket_or_none(tmp_path, monkeypatch):
  monkeypatch.setenv(compile_cache.VARIABLE, "")
  assert compile_cache.enable() == "" and not (tmp_path / "home").exists()
  (tmp_path / "mine").mkdir(mode=0o777)
  monkeypatch.setenv(compile_cache.VARIABLE, str(tmp_path / "mine"))
  assert compile_cache.enable() == str(tmp_path / "mine")
  assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o700
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/chosen/for/jax")
  assert compile_cache.enable() == "/chosen/for/jax"
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  monkeypatch.setenv(compile_cache.VARIABLE, "gs://bucket/xla")
  assert compile_cache.enable() == "gs://bucket/xla"


def test_a_folder_that_cannot_be_made_is_named_or_done_without(tmp_path, monkeypatch, caplog):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv(compile_cache.VARIABLE, str(tmp_path / "file" / "cache"))
  with pytest.raises(UserError, match="cannot be created .* set MG_COMPILE_CACHE to another"):
    compile_cache.enable()
  monkeypatch.delenv(compile_cache.VARIABLE)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  assert compile_cache.enable() == ""
  assert "compiled anew by each command" in caplog.text


def test_a_user_without_a_home_does_without(monkeypatch, caplog):
  def nowhere(path):
    raise RuntimeError("Could not determine home directory.")

  monkeypatch.delenv("XDG_CACHE_HOME")
  monkeypatch.setattr("pathlib.Path.expanduser", nowhere)
  assert compile_cache.enable() == "" and "Could not determine home" in caplog.text


def test_what_the_user_has_set_stays(monkeypatch):
  monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
  before = jax.config.jax_persistent_cache_min_compile_time_secs
  compile_cache.enable()
  assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "7"
  assert jax.config.jax_persistent_cache_min_compile_time_secs == before


def test_a_command_that_has_not_imported_jax_yet_uses_it(tmp_path):
  code = (
    "from mg_jax.core import compile_cache as c; import sys; assert 'jax' not in sys.modules\n"
    "folder = c.enable(); import jax, os\n"
    "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)\n"
    "jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((64, 64)))\n"
    "assert jax.config.jax_compilation_cache_dir == folder, folder\n"
    "assert os.listdir(folder), 'nothing was kept'"
  )
  subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
