#!/usr/bin/env bash
# Submits the runs of a sweep to SLURM, as array jobs of one task each:
#
#   bash slurm.sh [options of sbatch, such as --gpus=1 --time=01:00:00 --partition=NAME]
#
# First the maps of a frozen backbone, if the sweep trains on them, then the searches of learning
# rates, then the final runs, then the results. A run that ends at its time limit saves and is
# queued again. The environment may set PYTHON (python) and MAX_RESTARTS (20). With --dry-run as the
# first argument the calls of sbatch are printed, not made.
set -euo pipefail

folder=@FOLDER@
out=@OUT@
sweep=(@SWEEP@)
phases=(@PHASES@)

say() {
  printf 'slurm.sh: %s\n' "$1" >&2
}

if [[ -z "${SLURM_JOB_ID:-}" ]]; then
  dry_run=false
  if [[ "${1:-}" == --dry-run ]]; then
    dry_run=true
    shift
  fi
  after=()
  for phase in "${phases[@]}" results:1; do
    command=(
      sbatch --parsable --job-name="sweep-${phase%:*}" --array="0-$((${phase#*:} - 1))" "${after[@]}"
      --ntasks=1 --signal=TERM@120 --requeue --open-mode=append --chdir="$folder"
      --output="$out/slurm-${phase%:*}-%a.log" "$@" "$(realpath "$0")" "${phase%:*}"
    )
    if "$dry_run"; then
      printf '%s\n' "${command[*]@Q}"
      after=("--dependency=afterany:${phase%:*}")
    else
      job="$("${command[@]}")"
      say "${phase%:*}: job ${job%%;*}"
      after=("--dependency=afterany:${job%%;*}")
    fi
  done
  exit 0
fi

# SIGTERM of --signal goes to the task, not to this script, which gets it only if the job is ended.
is_ended=false
trap 'is_ended=true' TERM

command=(srun --ntasks=1 "${PYTHON:-python}" -m gap_jax sweep "${sweep[@]}")
[[ "$1" == results ]] || command+=(--only "$1-${SLURM_ARRAY_TASK_ID:-0}")
code=0
"${command[@]}" || code=$?
case "$code" in
  75 | 76 | 134)
    if "$is_ended" || ((${SLURM_RESTART_COUNT:-0} >= ${MAX_RESTARTS:-20})); then
      say "ended with $code; not queued again"
    else
      say "ended with $code; queued again"
      scontrol requeue "$SLURM_JOB_ID" || say "scontrol failed: submit the sweep again"
    fi
    ;;
esac
exit "$code"
