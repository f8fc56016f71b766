#!/usr/bin/env bash
# Trains on GPU nodes of a Slurm cluster, from a checkout that all nodes see. See
# docs/launch_slurm.md.
# Usage: bash launch/slurm.sh --name=NAME --nodes=N --chip=h100|h200 [OPTIONS] -- FLAGS
# FLAGS are flags of launch/train.py. Options: --gpus=8 (per node), --time=24:00:00, --dry_run,
# --sbatch="--partition=P --account=A" (further options of sbatch, split at spaces).
# MG_PYTHON names the interpreter, by default .venv/bin/python of the checkout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/_cluster.sh

option_name="" option_nodes="" option_chip="" option_gpus=8 option_time=24:00:00 option_sbatch=""
parse "$@"
require name nodes chip gpus time
require_training
for count in "$option_nodes" "$option_gpus"; do
  [[ $count =~ ^[1-9][0-9]*$ ]] || fail "--nodes and --gpus count from 1 on, and $count does not"
done
[[ ${option_chip} =~ ^h[12]00$ ]] || fail "no chip is named ${option_chip}; give h100 or h200"
MG_PYTHON=${MG_PYTHON:-$PWD/.venv/bin/python}
environment=$(exports "${option_chip}")
ids=$(seq -s , 0 $((option_gpus - 1)))

# One process per node uses all of its GPUs; by default jax would give each process one. SIGTERM
# comes five minutes before the time limit; the run then saves and the job is requeued.
script=$(
  cat <<EOF
#!/usr/bin/env bash
#SBATCH --job-name=${option_name}
#SBATCH --nodes=${option_nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=${option_gpus}
#SBATCH --time=${option_time}
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=${option_name}-%j.log
cd $(quoted "$PWD") || exit 2
$environment
export JAX_LOCAL_DEVICE_IDS=$ids
code=0
srun $(quoted "$MG_PYTHON") launch/train.py --distributed --stopped_code=75 $(quoted "${training[@]}") || code=\$?
[ "\$code" != 75 ] || exec scontrol requeue "\$SLURM_JOB_ID"
exit "\$code"
EOF
)
read -r -a further <<<"${option_sbatch}"
if [ "${option_dry_run}" = true ]; then
  echo "# $(quoted sbatch ${further[@]+"${further[@]}"}) <<EOF"
  echo "$script"
else
  command -v sbatch >/dev/null 2>&1 || fail "sbatch is not on PATH; run this on a login node"
  sbatch ${further[@]+"${further[@]}"} <<<"$script"
fi
