#!/usr/bin/env bash
# follow.sh JOB [POSITION]     prints a job's answer as it comes (from just after a position), and goes when it has ended
#
# The least that is right: whatever the live channel says, the log is read again, and what stands in it is compared with
# what was printed. That serves rewinds, restarts and late readers alike, and costs a read of the log for each look.
# Needs redis-cli (7.0 or later), jq and gzip.
source "$(dirname "$0")/common.sh"
job=$1 after=${2:-0-0}

work=$(mktemp -d)
coproc live { exec redis-cli -u "$url" --no-auth-warning --raw SUBSCRIBE "$ns:{$job}:live"; }
listener=$live_PID
trap 'kill "$listener" 2>/dev/null || true; rm -rf "$work"' EXIT

# Subscribe first, then read: what comes in between cannot get lost.
until [[ ${line:-} == 1 ]]; do read -r line <&"${live[0]}"; done
while :; do
  read_log "$job" "$work/log"
  # What we have printed: at first, what a reader has who comes back with a position.
  [[ -s $work/held ]] || jq -c --arg upto "$after" -f "$here/answer.jq" "$work/log" >"$work/held"
  jq -c --arg upto '' -f "$here/answer.jq" "$work/log" >"$work/pieces"
  jq -j --slurpfile held "$work/held" '($held[0] | length) as $count
    | if .[:$count] == $held[0] then .[$count:][][1] else "\n(rewound)\n", .[][1] end' "$work/pieces"
  mv "$work/pieces" "$work/held"
  case $(status "$work/log") in
    '') ;;
    completed | incomplete) exit 0 ;;
    *) jq -r '"\nfollow: \(.[-1][1][1])"' "$work/log" >&2; exit 1 ;;
  esac
  # A publication, or two seconds without one: the last one may have got lost.
  read -r -t 2 <&"${live[0]}" || [[ $? -gt 128 ]] || sleep 2
  while read -r -t 0 <&"${live[0]}" && read -r <&"${live[0]}"; do :; done
done
