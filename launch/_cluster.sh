# Sourced by the cluster launchers: their options, and commands that a dry run only prints. The
# caller runs in the checkout's root under `set -euo pipefail` and sets option_KEY for each of its
# options. Works with the bash of a Mac.
# shellcheck shell=bash
option_dry_run=""

fail() {
  echo "error: $*" >&2
  exit 2
}

# usage: prints the comment at the top of the launcher and exits.
usage() {
  sed -n -e 1d -e '/^#/!q' -e 's/^# \{0,1\}//p' "launch/${0##*/}"
  exit 0
}

# parse ARGS...: sets option_KEY from --KEY=VALUE or --KEY (true), and the array `training` to the
# arguments after --.
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
      --help) usage ;;
      --*)
        key=${1%%=*}
        key=option_${key#--}
        [[ $key =~ ^[a-z_]+$ && -n ${!key+known} ]] ||
          fail "no option is named ${1%%=*}; see --help"
        case $1 in
          *=*) printf -v "$key" %s "${1#*=}" ;;
          *) printf -v "$key" true ;;
        esac
        ;;
      *) fail "unexpected argument $1; flags of launch/train.py go after --" ;;
    esac
    shift
  done
}

# require KEYS...: each option has a value.
require() {
  local key
  for key in "$@"; do
    key=option_$key
    [ -n "${!key}" ] || fail "--${key#option_} is missing; see --help"
  done
}

# require_training: the arguments after -- name an experiment and its folder.
require_training() {
  local flag
  for flag in --config= --workdir=; do
    [[ " ${training[*]-}" == *" $flag"* ]] ||
      fail "${flag%=} is missing; give the flags of launch/train.py after --"
  done
}

# exports CHIP: prints the environment variables of a chip, as lines for a shell.
exports() {
  local python=${MG_PYTHON:-python3}
  "$python" -c 'import absl, ml_collections' >/dev/null 2>&1 ||
    fail "$python lacks packages that mg_jax needs; set MG_PYTHON to an interpreter with them"
  "$python" launch/chips.py --chip="$1"
}

# quoted ARGS...: prints a command quoted for a shell.
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
