#!/usr/bin/env bash
# submit.sh MODEL PROMPT [JOB]     stores and queues a job, prints its id
#
# Needs redis-cli and jq. The server is TAILRACE_REDIS_URL's, the namespace TAILRACE_NAMESPACE.
source "$(dirname "$0")/common.sh"
model=$1 prompt=$2 job=${3:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}

# Sorted keys, no spaces, nothing that is as by default: the same request has the same digest in every language.
request=$(jq -ncS --arg model "$model" --arg prompt "$prompt" \
  '{api: "chat", messages: [{role: "user", content: $prompt}], model: $model}')
digest=$(printf %s "$request" | sha256sum | cut -d ' ' -f 1)
incarnation=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
record=$(jq -nc --arg digest "$digest" --arg incarnation "$incarnation" --arg model "$model" \
  '{wire: 1, views: 1, $digest, $incarnation, retention_ms: 86400000, api: "chat", $model}')

answer=$(redis --raw --eval "$scripts/submit.lua" \
  "$ns:{$job}:log" "$ns:{$job}:job" "$ns:queue" "arq:job:$ns:$job" "$ns:queue:wake" "$ns:open" , \
  "{\"digest\":\"$digest\",\"request\":$request}" "$record" "$digest" \
  0 3600000 30000 86400000 \
  "$ns:$job" '{"t":null,"f":"tailrace","a":[],"k":{},"et":0}' 0 "$job" 10000)
case $answer in
  stored | same) echo "$job" ;;
  *) echo "submit: $answer" >&2; exit 1 ;;
esac
