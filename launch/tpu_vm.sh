#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU VM, one host or a pod. Run it on any machine with gcloud:
#
#   TPU=NAME ZONE=ZONE launch/tpu_vm.sh --config=configs/gap_pose.py --workdir=/mnt/shared/runs/gap_pose
#   TPU=NAME ZONE=ZONE launch/tpu_vm.sh --stop      the processes save and end with 75
#
# The environment may set CHECKOUT, the folder of gap_jax on the workers (default ~/gap_jax), and
# PYTHON there (.venv/bin/python). With --dry-run as the first argument the command is printed, not run.
#
# A lost connection does not end the run: the processes have no terminal and write to gap_jax.log in
# CHECKOUT, and the connection prints that file.
set -euo pipefail

refuse() {
  printf 'tpu_vm.sh: %s\n' "$1" >&2
  exit 64
}

dry_run=false
if [[ "${1:-}" == --dry-run ]]; then
  dry_run=true
  shift
fi
[[ -n "${TPU:-}" && -n "${ZONE:-}" ]] || refuse "set TPU and ZONE, as listed by gcloud compute tpus tpu-vm list"
(($#)) || refuse "add the arguments of gap_jax.main (--config=... --workdir=...), or --stop"

# The commands of a worker, with CHECKOUT and then --stop or the program's arguments as $1, $2, ...
# The pid file may name another process after an end.
worker="$(
  cat <<'WORKER'
cd "$1" && shift || exit;
pid="$(cat gap_jax.pid 2>/dev/null)";
grep --quiet --no-messages --text gap_jax.main "/proc/$pid/cmdline" || pid="";
if [ "$1" = --stop ]; then
  if [ "$pid" ]; then kill -TERM "$pid"; else echo "tpu_vm.sh: nothing runs here" >&2; fi;
  exit;
fi;
if [ "$pid" ]; then echo "tpu_vm.sh: process $pid runs here already: use --stop first" >&2; exit 77; fi;
: >gap_jax.log;
setsid "$@" >>gap_jax.log 2>&1 </dev/null &
echo "$!" >gap_jax.pid;
tail --pid="$!" --lines=+1 --follow gap_jax.log;
wait "$!"
WORKER
)"
worker="${worker//$'\n'/ }" # on one line, as quotes of several lines differ between shells

words=(--stop)
[[ "$1" == --stop ]] || words=("${PYTHON:-.venv/bin/python}" -m gap_jax.main --processes=auto "$@")
words=("${CHECKOUT:-gap_jax}" "${words[@]}")
command=(
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all
  --command="bash -c ${worker@Q} worker ${words[*]@Q}"
)
if "$dry_run"; then
  printf '%s\n' "${command[*]@Q}"
  exit 0
fi
exec "${command[@]}"
