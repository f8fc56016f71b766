# Sourced by the other launchers: finds an interpreter and keeps a virtual environment at its lock.
# The caller runs in the checkout's root under `set -euo pipefail`.
# shellcheck shell=bash

# find_python OLDEST NEWEST: prints the newest interpreter from Python 3.OLDEST to 3.NEWEST that can
# create virtual environments. A name on PATH may be a shim without a version, so each is
# tried.
find_python() {
  local minor candidate
  for ((minor = $2; minor >= $1; minor--)); do
    for candidate in "python3.$minor" python3 "$HOME/.pyenv/versions/3.$minor".*/bin/python; do
      if "$candidate" - "$minor" >/dev/null 2>&1 <<'PY'
import ensurepip, sys, venv
sys.exit(sys.version_info[:2] != (3, int(sys.argv[1])))
PY
      then
        command -v "$candidate"
        return 0
      fi
    done
  done
  return 1
}

# lock_of PYTHON: prints the lock file of an interpreter.
lock_of() {
  "$1" -c 'import sys; print(f"constraints/py3{11 if sys.version_info < (3, 12) else 12}.txt")'
}

# install VENV ARGS...: installs with uv if it is on PATH, and with pip if it is not or fails.
install() {
  local venv=$1
  shift
  if command -v uv >/dev/null 2>&1; then
    if uv pip install --quiet --python "$venv/bin/python" "$@"; then
      return 0
    fi
    echo "uv could not install, trying pip" >&2
  fi
  "$venv/bin/python" -m pip install -qq --no-input --disable-pip-version-check "$@"
}

# make_venv VENV PYTHON: brings VENV to the interpreter's lock with mg_jax itself in editable form.
# The stamp is a hash of everything that determines the content and is written last, so an
# interrupted run starts again.
make_venv() {
  local venv=$1 python=$2 lock want begin=$SECONDS
  lock=$(lock_of "$python")
  want=$("$python" - "$lock" setup.py "$PWD" <<'PY'
import hashlib, pathlib, sys
content = b"".join(pathlib.Path(name).read_bytes() for name in sys.argv[1:3])
print(hashlib.sha256(content + f"{sys.argv[3]} {sys.version}".encode()).hexdigest())
PY
)
  if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$want" ]; then
    echo "$venv is at $lock" >&2
    return 0
  fi
  echo "$venv: installing $(grep -c == "$lock") packages of $lock with $("$python" --version)" \
    "(about a minute)" >&2
  "$python" -m venv --clear "$venv"
  install "$venv" -r "$lock"
  install "$venv" --no-deps -e .
  echo "$want" >"$venv/.stamp"
  echo "$venv: ready after $((SECONDS - begin)) s" >&2
}
