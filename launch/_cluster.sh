# Sourced by the launchers of clusters: their options, and commands that a dry run only prints.
# The caller stands in the checkout's root, runs under `set -euo pipefail` and sets option_KEY for
# each of its options. The bash of a Mac is enough.
# shellcheck shell=bash
option_dry_run=""

fail() {
  echo "error: $*" >&2
  exit 2
}

# parse ARGS...: sets option_KEY from --KEY=VALUE or --KEY (true), and the array `training` to what
# stands after --.
parse() {
  local key
  training=()
  while [ $# -gt 0 ]; do
    case $1 in
      --)
        shift
        training=("$@")
        return 0
        ;;
      --*)
        key=${1%%=*}
        key=option_${key#--}
        [[ $key =~ ^[a-z_]+$ && -n ${!key+known} ]] ||
          fail "no option is named ${1%%=*}; see the top of $0"
        case $1 in
          *=*) printf -v "$key" %s "${1#*=}" ;;
          *) printf -v "$key" true ;;
        esac
        ;;
      *) fail "unexpected argument $1; flags of launch/train.py stand after --" ;;
    esac
    shift
  done
}

# require KEYS...: each option has a value.
require() {
  local key
  for key in "$@"; do
    key=option_$key
    [ -n "${!key}" ] || fail "--${key#option_} is missing; see the top of $0"
  done
}

# require_training: what stands after -- names an experiment and its folder.
require_training() {
  local flag
  for flag in --config= --workdir=; do
    [[ " ${training[*]-}" == *" $flag"* ]] ||
      fail "${flag%=} is missing; give the flags of launch/train.py after --"
  done
}

# exports CHIP: prints the lines that set the environment of a chip.
exports() {
  local python=${MG_PYTHON:-python3}
  "$python" -c 'import absl, ml_collections' >/dev/null 2>&1 ||
    fail "$python has not what mg_jax needs; set MG_PYTHON to an interpreter that has"
  "$python" launch/chips.py --chip="$1"
}

# quoted ARGS...: prints a command as a shell takes it.
quoted() {
  local line
  printf -v line '%q ' "$@"
  printf '%s' "${line% }"
}

# run ARGS...: runs a command, or prints it in a dry run.
run() {
  if [ "$option_dry_run" = true ]; then
    quoted "$@"
    echo
  else
    "$@"
  fi
}
