# shellcheck shell=bash
# What the scripts share: where the server is, and where docs/wire is.
set -euo pipefail
ns=${TAILRACE_NAMESPACE:-tailrace}
here=$(dirname "${BASH_SOURCE[0]}")
scripts=$here/../../docs/wire
url=${TAILRACE_REDIS_URL:-redis://127.0.0.1:6379/0}
# redis-cli takes an empty user for a user of that name.
url=${url/'://:'/'://default:'}
redis() { redis-cli -u "$url" --no-auth-warning "$@"; }

# read_log JOB FILE: the records as JSON, [[position, [field, value]] ...]. After the end they are in a snapshot: zlib behind
# one byte. (gzip reads that with a header of its own in front, and complains at the end only.)
read_log() {
  redis --json XRANGE "$ns:{$1}:log" - + >"$2"
  if [[ $(jq length "$2") == 0 ]]; then
    { printf '\x1f\x8b\x08\0\0\0\0\0\0\xff'; redis --raw GET "$ns:{$1}:snapshot" | tail -c +4; } |
      { gzip -dc 2>/dev/null || true; } | jq -c -f "$here/snapshot.jq" >"$2"
  fi
  [[ $(jq -r '.[0][0]' "$2") == 0-1 ]] || { echo "no such job, or its history is lost" >&2; exit 1; }
}

# status FILE: what the job has ended as; nothing if it has not.
status() { jq -r '.[-1][1] | if .[0] == "end" then .[1] | fromjson | .status else "" end' "$1"; }
