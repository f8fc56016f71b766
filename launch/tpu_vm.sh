#!/usr/bin/env bash
# Trains on one slice of TPU VMs with gcloud. See docs/launch_tpu.md.
# Usage: bash launch/tpu_vm.sh ACTION --name=NAME --zone=ZONE --project=PROJECT [OPTIONS]
#   create, queue      creates the slice at once, or when there is capacity; needs --type
#   status, delete     of a slice;  queue_status, queue_delete  of a queued one
#   setup              sends the last commit to all hosts and installs it there
#   start -- FLAGS     starts launch/train.py with FLAGS on all hosts; needs --type
#   log, stop          follows the log of the first host; saves and ends the run
# Options: --type=v5litepod-16|v5p-8|v6e-32|..., --version=RUNTIME, --spot, --dry_run
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/_cluster.sh

option_name="" option_zone="" option_project="" option_type="" option_version="" option_spot=""
action=${1-}
[ "$action" != --help ] || usage
[ $# -eq 0 ] || shift
parse "$@"
case $action in
  create | queue | status | queue_status | delete | queue_delete | setup | start | log | stop) ;;
  *) fail "no action is named '$action'; see --help" ;;
esac
require name zone project
place=("--zone=${option_zone}" "--project=${option_project}")
[ "$action" = start ] || [ ${#training[@]} -eq 0 ] || fail "only start takes flags after --"
if [ "${option_dry_run}" != true ] && ! command -v gcloud >/dev/null 2>&1; then
  fail "gcloud is not on PATH; install the Google Cloud CLI"
fi

case $action in
  create | queue | start)
    require type
    case ${option_type} in
      v5litepod-*) chip=v5e runtime=v2-alpha-tpuv5-lite ;;
      v5p-*) chip=v5p runtime=v2-alpha-tpuv5 ;;
      v6e-*) chip=v6e runtime=v2-alpha-tpuv6e ;;
      tpu7x*) fail "tpu7x is to be had in GKE only; use launch/gke.py" ;;
      *) fail "no type is named ${option_type}; give v5litepod-N, v5p-N or v6e-N" ;;
    esac
    shape=("--accelerator-type=${option_type}" "--runtime-version=${option_version:-$runtime}")
    [ "${option_spot}" != true ] || shape+=(--spot)
    ;;
esac

vm() {
  run gcloud compute tpus tpu-vm "$1" "${option_name}" "${place[@]}" "${@:2}"
}

queued() {
  run gcloud compute tpus queued-resources "$1" "${option_name}" "${place[@]}" "${@:2}"
}

# on WORKER COMMAND: runs a command in the shell of a host.
on() {
  vm ssh "--worker=$1" "--command=$2"
}

case $action in
  create) vm create "${shape[@]}" ;;
  queue) queued create "--node-id=${option_name}" "${shape[@]}" ;;
  status) vm describe "--format=value(state)" ;;
  queue_status) queued describe "--format=value(state.state)" ;;
  delete) vm delete --quiet ;;
  queue_delete) queued delete --force --quiet ;;
  setup)
    [ -z "$(git status --porcelain)" ] || echo "note: uncommitted changes are not sent" >&2
    archive=${TMPDIR:-/tmp}/$option_name.tar.gz
    run git archive --format=tar.gz "--output=$archive" HEAD
    run gcloud compute tpus tpu-vm scp "$archive" "${option_name}:mg_jax.tar.gz" \
      --worker=all "${place[@]}"
    # The Python of TPU VM images is too old; uv installs its own.
    on all "set -e; mkdir -p mg_jax; tar -xzf mg_jax.tar.gz -C mg_jax; cd mg_jax; \
python3 -m pip install --user --quiet uv; PATH=\$HOME/.local/bin:\$PATH; uv python install 3.12; \
source launch/_venv.sh; make_venv .venv \"\$(uv python find 3.12)\"; install .venv -e '.[tpu]'"
    run rm "$archive"
    ;;
  start)
    require_training
    environment=$(exports "$chip")
    on all "cd mg_jax || exit 2
if kill -0 \"\$(cat train.pid 2>/dev/null)\" 2>/dev/null; then
echo 'error: a run is in progress; stop it first' >&2; exit 2
fi
$environment
nohup .venv/bin/python launch/train.py --distributed $(quoted "${training[@]}") \
>train.log 2>&1 </dev/null & echo \$! >train.pid"
    ;;
  log) on 0 "tail -n 100 -f mg_jax/train.log" ;;
  stop) on all "kill -TERM \"\$(cat mg_jax/train.pid)\"" ;;
esac
