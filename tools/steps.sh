# Shared steps of the recipes. A recipe starts like this:
#
#   stage=1         # first stage to run
#   stop_stage=100  # last stage to run
#   . tools/parse_options.sh
#   . tools/setup.sh
#   . tools/steps.sh
#
#   if run_stage 3 "Training"; then
#     launch_train 2 1 localhost:29400 wesp_lap.bin.train --config conf/mini.yaml
#   fi
#
# A command that fails stops the recipe with one sentence that names the stage. This file turns on
# strict mode (set -euo pipefail) and owns the recipe's EXIT trap. Needs bash 4.2 or newer.

set -euo pipefail

_stage_number=
_stage_title=
_stage_start=0
_stages_run=0

# log WORDS...: one line with the time of day.
log() {
  printf '%(%H:%M:%S)T %s\n' -1 "$*"
}

# run_stage N TITLE: true when N lies in [$stage, $stop_stage]; says which stage begins and how
# long the one before took.
run_stage() {
  _stage_close
  if [ "$1" -lt "$stage" ] || [ "$1" -gt "$stop_stage" ]; then
    return 1
  fi
  _stage_number=$1
  _stage_title=$2
  _stage_start=$SECONDS
  _stages_run=$((_stages_run + 1))
  log "Stage $1: $2"
}

_stage_close() {
  if [ -n "$_stage_number" ]; then
    log "Stage $_stage_number done in $(_duration $((SECONDS - _stage_start)))"
  fi
  _stage_number=
}

_duration() {
  if [ "$1" -lt 60 ]; then
    printf '%d s' "$1"
  elif [ "$1" -lt 3600 ]; then
    printf '%d min %d s' $(($1 / 60)) $(($1 % 60))
  else
    printf '%d h %d min' $(($1 / 3600)) $(($1 % 3600 / 60))
  fi
}

# Runs when the recipe ends, with its exit code: the EXIT trap fires once, where an ERR trap
# would speak again in every subshell that the failure passes through.
_recipe_end() {
  local code=$1 name=${0##*/} reason="failed with exit code $1"
  if [ "$code" -eq 0 ]; then
    _stage_close
    if [ "$_stages_run" -eq 0 ]; then
      printf '%s: nothing to do: no stage lies between --stage %s and --stop-stage %s\n' \
        "$name" "$stage" "$stop_stage" >&2
    fi
    return
  fi
  case $code in
    75) reason="was asked to leave and has saved its state" ;;
    130 | 143) reason="was interrupted" ;;
    137) reason="was killed (exit code 137, often for want of memory)" ;;
  esac
  if [ -n "$_stage_number" ]; then
    printf '%s: stage %s (%s) %s; see the message above; re-run the same command to continue\n' \
      "$name" "$_stage_number" "$_stage_title" "$reason" >&2
  fi
}

trap '_recipe_end $?' EXIT
trap 'exit 130' INT
# Schedulers send these to all processes of a job; training, if it runs, saves its state and ends.
trap 'case $? in 75) exit 75 ;; *) exit 143 ;; esac' TERM
trap : USR1 USR2

_count_cores() {
  nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1
}

# launch_train PROCESSES NODES HOST[:PORT] MODULE ARGUMENTS...: run a Python module (or a .py file)
# with torchrun. PROCESSES is per node; HOST is the node where the processes of several nodes
# meet and is not used on one node. MAX_RESTARTS (default 0) lets torchrun restart a failed run.
launch_train() {
  local processes=$1 nodes=$2 host=$3 module=$4
  shift 4
  local threads=${OMP_NUM_THREADS:-}
  if [ -z "$threads" ]; then
    threads=$(($(_count_cores) / processes))
    [ "$threads" -ge 1 ] || threads=1
  fi
  local -a launch=(--nproc_per_node "$processes" --nnodes "$nodes")
  if [ "$nodes" -eq 1 ]; then
    launch+=(--standalone)
  else
    launch+=(--rdzv_backend c10d --rdzv_endpoint "$host" --rdzv_id "${SLURM_JOB_ID:-wesp_lap}")
  fi
  launch+=(--max_restarts "${MAX_RESTARTS:-0}")
  [[ $module == *.py ]] || launch+=(-m)
  # Threads that wait let go of their core: spinning, they starve each other on a shared machine.
  OMP_NUM_THREADS=$threads OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} \
    "${PYTHON:-python3}" -m wesp_lap.bin.launch "${launch[@]}" "$module" "$@"
}
