#!/usr/bin/env bash
# cancel.sh JOB     cancels a job, prints the status it has ended with
source "$(dirname "$0")/common.sh"
job=$1

{ read -r answer; read -r last || true; read -r end || true; } < <(redis --raw --eval "$scripts/seal.lua" \
  "$ns:{$job}:log" "$ns:{$job}:job" , "$ns:{$job}:live" '' '' '{"status":"cancelled"}' "$job" 0)
if [[ $answer == gone ]]; then
  echo "cancel: no such job" >&2
  exit 1
elif [[ -z $end ]]; then
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  read_log "$job" "$log"
  status "$log"
else
  # A word to the worker of the last attempt makes it fast. Without it the worker finds the log sealed.
  attempt=$(redis --raw XRANGE "$ns:{$job}:log" "${last%-*}-0" "${last%-*}-0" | sed 1,2d)
  [[ -z $attempt ]] || redis PUBLISH "$ns:worker:$(jq -r .worker <<<"$attempt")" "cancel $job" >/dev/null
  jq -r .status <<<"$end"
fi
