#!/usr/bin/env bash
# Lints and tests a checkout in its own environments: the whole fast suite on the newest Python
# found, then a smoke subset on Python 3.11 with its last jax, if available.
# Usage: bash launch/test.sh [pytest arguments]; with arguments only the first lane runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/_venv.sh

export JAX_PLATFORMS=cpu
reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT

failed=0

# lane NAME VENV ARGS...: runs pytest and keeps its counts; a failure is recorded, not fatal.
lane() {
  local name=$1 venv=$2
  shift 2
  echo "== $name: $("$venv/bin/python" -c \
    'import sys, jax; print("Python", sys.version.split()[0], "jax", jax.__version__)')"
  "$venv/bin/python" -m pytest -q -rs --junitxml="$reports/$name.xml" "$@" || failed=$?
}

if ! python=$(find_python 11 14); then
  echo "error: no Python 3.11 to 3.14 with the venv module was found; install one, then run again" >&2
  exit 2
fi
make_venv .venv "$python"
lint="clean"
.venv/bin/ruff check . || { failed=1 && lint="failed, see above"; }
lane full .venv -n 2 --dist loadfile -m "not slow" "$@"

if [ $# -gt 0 ]; then
  echo "== compat: skipped, pytest arguments were given"
elif [ "$(lock_of "$python")" = constraints/py311.txt ]; then
  echo "== compat: skipped, the first lane already ran on Python 3.11"
elif ! oldest=$(find_python 11 11); then
  echo "== compat: skipped, no Python 3.11 was found"
else
  make_venv .venv-py311 "$oldest"
  export JAX_DISABLE_MOST_OPTIMIZATIONS=0 # here programs are those of runs
  lane compat .venv-py311 -n 2 --dist loadfile -m smoke
fi

echo "== lint: $lint"
.venv/bin/python - "$reports" <<'PY'
import pathlib, sys
from xml.etree import ElementTree
total = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
for report in pathlib.Path(sys.argv[1]).glob("*.xml"):
  for suite in ElementTree.parse(report).iter("testsuite"):
    total = {k: v + int(suite.get(k, 0)) for k, v in total.items()}
bad = total["failures"] + total["errors"]
print(f"{total['tests'] - bad - total['skipped']} passed, {bad} failed, {total['skipped']} skipped")
PY
exit "$failed"
