#!/usr/bin/env bash
# Trains the tiny autoencoder and video model on the toy world and writes a clip, on a CPU.
# Usage: bash launch/quickstart.sh [flags of launch/quickstart.py]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/_venv.sh

if ! python=$(find_python 11 14); then
  echo "error: no Python 3.11 to 3.14 with the venv module was found; install one, then run again" >&2
  exit 2
fi
make_venv .venv "$python"
exec .venv/bin/python launch/quickstart.py --workdir=runs/quickstart "$@"
