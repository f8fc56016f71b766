"""What users type: the frozen flags of every main, and the shell launchers."""

import os
import re
import runpy
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

_ROOT = Path(__file__).resolve().parents[1]
_GOLDEN = _ROOT / "tests" / "goldens" / "cli.txt"
_BASH = shutil.which("bash")


def _flags_of(main: Path) -> list[str]:
  """One line for each flag that a main defines, which are then removed for the next main."""
  known = set(flags.FLAGS)
  try:
    runpy.run_path(str(main), run_name="main_under_test")
    own = [n for n in flags.FLAGS if flags.FLAGS.find_module_defining_flag(n) == "main_under_test"]
    lines = []
    for name in sorted(set(own) - known):
      flag = flags.FLAGS[name]
      lines.append(f"launch/{main.name} --{name} ({flag.flag_type()}) = {flag.default!r}")
    return lines
  finally:
    for name in set(flags.FLAGS) - known:
      delattr(flags.FLAGS, name)


def test_flags_are_frozen():
  lines = [line for main in sorted((_ROOT / "launch").glob("*.py")) for line in _flags_of(main)]
  if os.environ.get("MG_UPDATE_GOLDENS"):
    _GOLDEN.write_text("\n".join(lines) + "\n")
  known = _GOLDEN.read_text().splitlines()
  assert lines == [line for line in known if line], (
    "the command line changed; where that is meant, run MG_UPDATE_GOLDENS=1 bash launch/test.sh"
    " tests/cli_test.py and say in the change what users must now type"
  )


def test_help_states_defaults_and_how_a_config_is_changed():
  """absl prints the defaults of flags, except those that are None."""
  for main in sorted((_ROOT / "launch").glob("*.py")):
    known = set(flags.FLAGS)
    try:
      about = runpy.run_path(str(main), run_name="main_under_test")["__doc__"]
      for name in sorted(set(flags.FLAGS) - known):
        flag = flags.FLAGS[name]
        if flag.default is None and flag.flag_type() in ("int", "float", "string enum"):
          words = flag.help.lower()
          assert "default" in words or "required" in words, f"{main.name} --{name}: {flag.help}"
      if "config" in set(flags.FLAGS) - known:
        assert re.search(r"--config(\.\w+)+=\w", about), f"{main.name} changes no field"
    finally:
      for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)


def test_a_flag_of_a_main_is_seen(tmp_path):
  main = tmp_path / "train.py"
  main.write_text('from absl import flags\nflags.DEFINE_integer("steps_of_test", 3, "Steps.")\n')
  assert _flags_of(main) == ["launch/train.py --steps_of_test (int) = 3"]
  assert "steps_of_test" not in flags.FLAGS


@pytest.mark.parametrize("script", sorted(_ROOT.glob("launch/*.sh")), ids=lambda p: p.name)
def test_shell_launchers_parse(script):
  assert subprocess.run([_BASH, "-n", script]).returncode == 0
  assert "\r" not in script.read_text()


def test_the_gate_is_executable():
  assert (_ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR


def _bash(script: str, cwd: Path, **env: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [_BASH, "-c", f"set -euo pipefail; source {_ROOT}/launch/_venv.sh\n{script}"],
    cwd=cwd, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    env={"HOME": str(cwd), "PATH": os.environ["PATH"], **env},
  )  # fmt: skip


def _executable(path: Path, text: str) -> Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f"#!{_BASH}\n{text}\n")
  path.chmod(0o755)
  return path


def _python(path: Path, minor: int) -> Path:
  """An interpreter that says it is Python 3.minor."""
  claim = f"import sys; del sys.argv[1]; sys.version_info = (3, {minor}, 0)"
  script = f"{claim}; exec(sys.stdin.read())"
  return _executable(path, f"exec {sys.executable} -c '{script}' \"$@\"")


def test_a_shim_without_a_version_behind_it_is_passed_over(tmp_path):
  _executable(tmp_path / "bin" / "python3.14", "echo no such version >&2; exit 127")
  real = _python(tmp_path / "bin" / "python3", 12)
  done = _bash("find_python 11 14", tmp_path, PATH=str(real.parent))
  assert done.returncode == 0 and done.stdout.strip() == str(real)


def test_an_interpreter_is_found_beside_path(tmp_path):
  real = _python(tmp_path / ".pyenv/versions/3.13.0/bin/python", 13)
  assert _bash("find_python 11 14", tmp_path, PATH="").stdout.strip() == str(real)


def test_the_newest_interpreter_comes_first(tmp_path):
  old = _python(tmp_path / "bin" / "python3.11", 11)
  _python(tmp_path / "bin" / "python3", 11)
  new = _python(tmp_path / ".pyenv/versions/3.13.0/bin/python", 13)
  _python(tmp_path / ".pyenv/versions/3.15.0/bin/python", 15)
  path = str(old.parent)
  assert _bash("find_python 11 14", tmp_path, PATH=path).stdout.strip() == str(new)
  assert _bash("find_python 11 11", tmp_path, PATH=path).stdout.strip() == str(old)
  assert _bash("find_python 12 12", tmp_path, PATH=path).returncode != 0


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_without_an_interpreter_there_is_one_sentence(tmp_path, script):
  for tool in ("dirname", "mktemp", "rm"):
    (tmp_path / tool).symlink_to(shutil.which(tool))
  done = subprocess.run(
    [_BASH, str(_ROOT / "launch" / script)],
    cwd=tmp_path, capture_output=True, text=True, timeout=60,
    env={"HOME": str(tmp_path), "PATH": str(tmp_path), "TMPDIR": str(tmp_path)},
  )  # fmt: skip
  assert done.returncode == 2
  assert done.stderr.startswith("error: no Python 3.11 to 3.14")
  assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def project(tmp_path):
  """A checkout in small, and an interpreter whose environments are made at once."""
  (tmp_path / "constraints").mkdir()
  for lock in ("py311", "py312"):
    (tmp_path / "constraints" / f"{lock}.txt").write_text("numpy==2.0\n")
  (tmp_path / "setup.py").write_text("")
  _executable(
    tmp_path / "python",
    f'if [ "$1" = -m ]; then mkdir -p "$4/bin"; ln -sf {sys.executable} "$4/bin/python"\n'
    f'else exec {sys.executable} "$@"; fi',
  )
  return tmp_path


_MAKE = 'install() { echo "install $*"; }\nmake_venv .venv ./python'


def test_an_environment_is_installed_again_only_when_its_lock_changes(project):
  lock = f"constraints/py3{11 if sys.version_info < (3, 12) else 12}.txt"
  first = [f"install .venv -r {lock}", "install .venv --no-deps -e ."]
  assert _bash(_MAKE, project).stdout.splitlines() == first
  assert _bash(_MAKE, project).stdout == ""
  (project / lock).write_text("numpy==2.1\n")
  assert _bash(_MAKE, project).stdout.splitlines() == first
  (project / "setup.py").write_text("# another requirement")
  assert _bash(_MAKE, project).stdout.splitlines() == first


def test_a_failed_installation_is_tried_again(project):
  assert _bash("install() { return 1; }\nmake_venv .venv ./python", project).returncode != 0
  assert "install" in _bash(_MAKE, project).stdout


def test_the_time_of_an_installation_does_not_count_what_came_before_it(project):
  done = _bash(f"SECONDS=5000\n{_MAKE}", project)
  assert re.search(r"ready after \d s", done.stderr)


def test_uv_is_used_where_it_works_and_pip_where_it_does_not(tmp_path):
  _executable(tmp_path / "venv" / "bin" / "python", 'echo "pip: $*"')
  _executable(tmp_path / "uv", 'echo "uv: $*"; exit "$UV_EXIT"')
  path = f"{tmp_path}:{os.environ['PATH']}"
  good = _bash("install venv -r lock", tmp_path, PATH=path, UV_EXIT="0")
  assert good.stdout.startswith("uv: pip install") and "pip: " not in good.stdout
  bad = _bash("install venv -r lock", tmp_path, PATH=path, UV_EXIT="1")
  assert bad.returncode == 0 and "pip: -m pip install" in bad.stdout
