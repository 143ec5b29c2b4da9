#!/usr/bin/env bash
# Training under Slurm on one or several nodes, with the options of run.sh:
#
#   sbatch egs/voxceleb/slurm.sh --vox1 DIR --vox2 DIR --trials FILES --exp_dir DIR ...
#
# Stages 1 and 2 of run.sh come before, the stages from 4 on after it, on one node. Submit it from
# the root of the clone, with a Slurm that gives each node all of its GPUs.
#
# Two minutes before the time limit, and when the job is preempted, training saves its state and
# ends with exit code 75; the job is queued again then and goes on from there.

#SBATCH --job-name=wesp_lap
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=USR2@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log

set -euo pipefail

# sbatch runs a copy of this file; the recipe lies where it was submitted.
recipe=egs/voxceleb/run.sh
if [ ! -f "$recipe" ]; then
  echo "${0##*/}: no $recipe here; submit this from the root of the clone" >&2
  exit 2
fi

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
meet=${hosts%%$'\n'*}:$((29400 + SLURM_JOB_ID % 1000)) # several jobs may share a node

# A node that ends, for whatever reason, leaves the others two minutes.
code=0
srun --wait=120 bash "$recipe" --stage 3 --stop_stage 3 \
  --num_nodes "$SLURM_JOB_NUM_NODES" --HOST_NODE_ADDR "$meet" "$@" || code=$?
if [ "$code" -eq 75 ]; then
  echo "saved; job $SLURM_JOB_ID is queued again"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
