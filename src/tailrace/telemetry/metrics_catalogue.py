"""All metrics, each named once. docs/metrics.md has the same table, a test compares them.

No label has a job's id, a model, a prompt's or a tenant's words: upstreams, receivers and groups are the configuration's names.
"""

from typing import Final

from tailrace.schemas import Status
from tailrace.telemetry.metrics_counts import Metric

_ENDS: Final = tuple((status.value,) for status in Status if status.ended)
#: A stream's pauses: from a burst that one read brought to a stall.
_GAPS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_APPENDS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_REQUESTS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LIVES: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)

# Every process.

BUILD_INFO: Final = Metric(
    "tailrace_build_info", "gauge", "Always 1: which version, in which role, for which namespace.",
    ("version", "role", "namespace"),
)  # fmt: skip
EVENT_LOOP_DELAY: Final = Metric(
    "tailrace_event_loop_delay_seconds", "gauge",
    "How long the scrape waited for its turn in the event loop: what every stream of the process waits as well.",
)  # fmt: skip

# The worker: jobs.

JOBS_CLAIMED: Final = Metric(
    "tailrace_jobs_claimed_total", "counter", "Jobs taken from the queue; more than once if they come back."
)
JOBS_RUNNING: Final = Metric("tailrace_jobs_running", "gauge", "Jobs in this worker's hands.")
JOB_SLOTS: Final = Metric(
    "tailrace_job_slots", "gauge", "How many it takes at most (worker.max_jobs); 0 while it drains."
)
JOBS_ENDED: Final = Metric(
    "tailrace_jobs_ended_total", "counter",
    "Jobs that this worker saw off after their end, whoever ended them; with the sweep's, over all workers every job once.",
    ("status",), _ENDS,
)  # fmt: skip
JOB_WAIT: Final = Metric(
    "tailrace_job_wait_seconds", "histogram",
    "From when a job was due until a worker had read it, at its first claim; by the server's clock.",
)  # fmt: skip
JOB_DURATION: Final = Metric(
    "tailrace_job_duration_seconds", "histogram",
    "How long the last attempt of a job took that this worker ended as completed, incomplete or failed.",
    bounds=_LIVES,
)  # fmt: skip
ATTEMPTS: Final = Metric(
    "tailrace_attempts_total", "counter",
    'Attempts begun: "first" of a job, "again" after one that failed or died.',
    ("kind",), (("first",), ("again",)),
)  # fmt: skip
LEASES_LOST: Final = Metric(
    "tailrace_leases_lost_total", "counter", "Jobs that were taken away while they ran: this worker was taken for dead."
)
HANDLER_ERRORS: Final = Metric(
    "tailrace_handler_errors_total",
    "counter",
    "Runs that broke off in an error of tailrace's own; the log has its trace.",
)
USAGE_TOKENS: Final = Metric(
    "tailrace_usage_tokens_total", "counter", "Tokens of ended jobs, as their upstreams count them.",
    ("kind",), (("input",), ("output",)),
)  # fmt: skip

# The worker: streams and the log.

FIRST_TOKEN: Final = Metric(
    "tailrace_first_token_seconds", "histogram",
    "From asking an upstream to its first text; waiting for a place there and retries included.", ("upstream",),
)  # fmt: skip
OUTPUT_CHUNKS: Final = Metric(
    "tailrace_output_chunks_total",
    "counter",
    "Pieces of output that upstreams gave: most services send a token in each.",
)
CHUNK_GAP: Final = Metric(
    "tailrace_chunk_gap_seconds", "histogram",
    "Pause between two appends of one stream, what a reader sees between two pieces of text. A sample of the streams.",
    bounds=_GAPS,
)  # fmt: skip
RECORDS: Final = Metric("tailrace_log_records_total", "counter", "Records that the server has acknowledged.")
CHARACTERS: Final = Metric("tailrace_log_characters_total", "counter", "Characters of these records.")
FLUSH: Final = Metric(
    "tailrace_append_seconds", "histogram",
    "From sending a flush (an append of every job that has something) to the server's answers.", bounds=_APPENDS,
)  # fmt: skip
APPENDS: Final = Metric("tailrace_appends_total", "counter", "Appends sent, one of each job in a flush.")
APPENDS_AGAIN: Final = Metric(
    "tailrace_appends_postponed_total", "counter",
    "Appends that the server did not take (away, out of memory, refused): the same again after a pause.",
)  # fmt: skip
WRITERS_HELD: Final = Metric(
    "tailrace_writers_held", "gauge", "Jobs whose records wait for a server that does not take them."
)
REWINDS: Final = Metric(
    "tailrace_rewinds_total",
    "counter",
    "Restarts that voided text which readers had been shown: the new answer differs.",
)
REFUSALS: Final = Metric(
    "tailrace_log_refusals_total", "counter",
    'Logs that took nothing more: "fenced" by a newer attempt, "sealed" because the job has ended (a cancel, most often), '
    '"gone".',
    ("reason",), (("fenced",), ("sealed",), ("gone",)),
)  # fmt: skip
REPLAYS: Final = Metric(
    "tailrace_replays_total", "counter", "Logs of which the server had lost a tail, which was written again."
)
REPLAYED_RECORDS: Final = Metric("tailrace_replayed_records_total", "counter", "Records that were written again.")

# The worker: the sweep.

SWEEP_CHECKED: Final = Metric("tailrace_sweep_jobs_checked_total", "counter", "Open jobs that the sweep looked at.")
SWEEP_HEALED: Final = Metric(
    "tailrace_sweep_healed_total", "counter", "What the sweep found not in order and put right (docs/architecture.md).",
    ("finding",),
    tuple((each,) for each in ("queued", "settled", "expired", "failed", "dropped", "reopened", "skipped", "lost", "untold")),
)  # fmt: skip

# The worker: upstreams.

UPSTREAM_REQUESTS: Final = Metric(
    "tailrace_upstream_requests_total",
    "counter",
    "Requests for an answer; retries of the same are not counted.",
    ("upstream",),
)
UPSTREAM_ERRORS: Final = Metric(
    "tailrace_upstream_errors_total",
    "counter",
    "Requests that failed, and answers that broke, by kind.",
    ("upstream", "type"),
)
UPSTREAM_RETRIES: Final = Metric(
    "tailrace_upstream_retries_total", "counter", "Requests that were sent again before an answer began.", ("upstream",)
)
UPSTREAM_FALLBACKS: Final = Metric(
    "tailrace_upstream_fallbacks_total", "counter", "Requests that went on to this upstream's fallback.", ("upstream",)
)
UPSTREAM_STREAMS: Final = Metric(
    "tailrace_upstream_streams_open", "gauge", "Requests and answers under way.", ("upstream",)
)
UPSTREAM_LIMIT: Final = Metric(
    "tailrace_upstream_streams_limit",
    "gauge",
    "How many there may be at a time, where that is configured.",
    ("upstream",),
)
UPSTREAM_WAITING: Final = Metric(
    "tailrace_upstream_waiting", "gauge", "Jobs that wait for a free place there.", ("upstream",)
)
UPSTREAM_WAIT: Final = Metric(
    "tailrace_upstream_wait_seconds", "histogram", "How long jobs waited for a free place, where places are limited.",
    ("upstream",),
)  # fmt: skip

# The gateway.

REQUESTS: Final = Metric(
    "tailrace_gateway_requests_total", "counter", "Requests, when they are over; a WebSocket that was taken has status 101.",
    ("route", "method", "status"),
)  # fmt: skip
RESPONSE: Final = Metric(
    "tailrace_gateway_response_start_seconds", "histogram", "From a request to the head of its response.", ("route",),
    bounds=_REQUESTS,
)  # fmt: skip
REQUESTS_OPEN: Final = Metric("tailrace_gateway_requests_open", "gauge", "Requests under way, streams among them.")
STREAMS_OPEN: Final = Metric(
    "tailrace_gateway_streams_open", "gauge", "Streams that are being sent: one for each reader."
)
STREAMS_ENDED: Final = Metric(
    "tailrace_gateway_streams_total", "counter",
    'Streams that are over: "ended" whole, "left" by their reader, "stalled" (dropped, because its reader took nothing), '
    '"closing" with the gateway, "broken" because the job\'s log cannot be read on.',
    ("outcome",), tuple((each,) for each in ("ended", "left", "stalled", "closing", "broken")),
)  # fmt: skip
JOBS_FOLLOWED: Final = Metric("tailrace_jobs_followed", "gauge", "Jobs whose live channel this process hears.")
READERS_OPEN: Final = Metric(
    "tailrace_readers_open", "gauge", "Readers of jobs within this process that share what they read."
)
READERS_CUT: Final = Metric(
    "tailrace_readers_cut_total",
    "counter",
    "Readers that fell too far behind the others and had to read the log again.",
)

# Webhooks.

WEBHOOK_MESSAGES: Final = Metric(
    "tailrace_webhook_messages_total", "counter",
    'Messages that are over: "delivered", "parked" after the last try, "left" to another process or a later start.',
    ("receiver", "outcome"),
)  # fmt: skip
WEBHOOK_TRIES: Final = Metric(
    "tailrace_webhook_tries_total", "counter", 'Tries by the answer: 2xx to 5xx, "none" if there was none.',
    ("receiver", "answer"),
)  # fmt: skip
WEBHOOK_TRY: Final = Metric(
    "tailrace_webhook_try_seconds", "histogram", "How long a try took.", ("receiver",), bounds=_REQUESTS
)
WEBHOOKS_OPEN: Final = Metric(
    "tailrace_webhook_messages_open", "gauge", "Messages on their way, those between two tries included.", ("receiver",)
)

# The fleet: read from Redis; the same in every process that tells of it.

REDIS_UP: Final = Metric(
    "tailrace_redis_up",
    "gauge",
    '1 if Redis answered within two seconds, else 0: the server of the "logs", and that of the "queue" if it is another. Each '
    "primary of a cluster by its address.",
    ("server",),
)
REDIS_RESPONSE: Final = Metric("tailrace_redis_response_seconds", "gauge", "How long it took to answer.", ("server",))
REDIS_MEMORY: Final = Metric("tailrace_redis_memory_used_bytes", "gauge", "Memory in use there.", ("server",))
REDIS_MEMORY_LIMIT: Final = Metric(
    "tailrace_redis_memory_limit_bytes",
    "gauge",
    "Its maxmemory: at it, Redis refuses new jobs. Missing if there is none.",
    ("server",),
)
REDIS_CLIENTS: Final = Metric("tailrace_redis_clients", "gauge", "Connections to it.", ("server",))
REDIS_CLIENTS_LIMIT: Final = Metric("tailrace_redis_clients_limit", "gauge", "Its maxclients.", ("server",))
REDIS_EVICTED: Final = Metric(
    "tailrace_redis_evicted_keys_total",
    "counter",
    "Keys that it threw away for want of memory: jobs are lost. Must be 0.",
    ("server",),
)
REDIS_WRITES_FAIL: Final = Metric(
    "tailrace_redis_persistence_failed",
    "gauge",
    "1 if its last write to disk failed (append-only file or snapshot).",
    ("server",),
)
QUEUE_JOBS: Final = Metric(
    "tailrace_queue_jobs", "gauge",
    'Jobs in the queue, exact: "due" wait for a worker; "running" are leased, or due within a lease (worker.lease_s); '
    '"delayed" are due later.',
    ("queue", "state"),
)  # fmt: skip
QUEUE_AGE: Final = Metric(
    "tailrace_queue_oldest_due_seconds",
    "gauge",
    "How long the job has waited that is due longest; 0 if none waits.",
    ("queue",),
)
OPEN_JOBS: Final = Metric(
    "tailrace_open_jobs",
    "gauge",
    "Jobs that are not both ended and handed off, exact: in the queue, or on their way out.",
)
OPEN_UNCHECKED: Final = Metric(
    "tailrace_open_jobs_unchecked",
    "gauge",
    "Of these, whose check is overdue by half a minute: nobody sweeps, or too few do.",
)
WORKERS: Final = Metric(
    "tailrace_workers", "gauge",
    'Workers of the last hour, at most 1,000: "alive", or "silent" (died, without taking leave).', ("state",),
)  # fmt: skip
WORKER_SLOTS: Final = Metric("tailrace_workers_job_slots", "gauge", "Jobs that those alive take at most, together.")
HANDOFF_ENTRIES: Final = Metric("tailrace_handoff_entries", "gauge", "Ended jobs that the hand-off keeps.")
HANDOFF_ADDED: Final = Metric(
    "tailrace_handoff_added_total", "counter", "Ended jobs that were handed off, of all workers."
)
HANDOFF_LAG: Final = Metric(
    "tailrace_handoff_lag_entries", "gauge", "Ended jobs that a group has not been given yet.", ("group",)
)
HANDOFF_PENDING: Final = Metric(
    "tailrace_handoff_pending_entries",
    "gauge",
    "Ended jobs that a group was given and has not acknowledged.",
    ("group",),
)
HANDOFF_PARKED: Final = Metric(
    "tailrace_handoff_parked_entries", "gauge", "Ended jobs that a group has given up, kept for people.", ("group",)
)

EVERY: Final = (BUILD_INFO, EVENT_LOOP_DELAY)
WORKER: Final = (
    JOBS_CLAIMED, JOBS_RUNNING, JOB_SLOTS, JOBS_ENDED, JOB_WAIT, JOB_DURATION, ATTEMPTS, LEASES_LOST, HANDLER_ERRORS,
    USAGE_TOKENS, FIRST_TOKEN, OUTPUT_CHUNKS, CHUNK_GAP, RECORDS, CHARACTERS, FLUSH, APPENDS, APPENDS_AGAIN, WRITERS_HELD,
    REWINDS, REFUSALS, REPLAYS, REPLAYED_RECORDS, SWEEP_CHECKED, SWEEP_HEALED, UPSTREAM_REQUESTS, UPSTREAM_ERRORS,
    UPSTREAM_RETRIES, UPSTREAM_FALLBACKS, UPSTREAM_STREAMS, UPSTREAM_LIMIT, UPSTREAM_WAITING, UPSTREAM_WAIT,
)  # fmt: skip
GATEWAY: Final = (
    REQUESTS, RESPONSE, REQUESTS_OPEN, STREAMS_OPEN, STREAMS_ENDED, JOBS_FOLLOWED, READERS_OPEN, READERS_CUT,
)  # fmt: skip
WEBHOOKS: Final = (WEBHOOK_MESSAGES, WEBHOOK_TRIES, WEBHOOK_TRY, WEBHOOKS_OPEN)
FLEET: Final = (
    REDIS_UP, REDIS_RESPONSE, REDIS_MEMORY, REDIS_MEMORY_LIMIT, REDIS_CLIENTS, REDIS_CLIENTS_LIMIT, REDIS_EVICTED,
    REDIS_WRITES_FAIL, QUEUE_JOBS, QUEUE_AGE, OPEN_JOBS, OPEN_UNCHECKED, WORKERS, WORKER_SLOTS, HANDOFF_ENTRIES,
    HANDOFF_ADDED, HANDOFF_LAG, HANDOFF_PENDING, HANDOFF_PARKED,
)  # fmt: skip
#: By who tells of them.
CATALOGUE: Final[dict[str, tuple[Metric, ...]]] = {
    "every process": EVERY,
    "a worker": WORKER,
    "a gateway": GATEWAY,
    "webhooks": WEBHOOKS,
    "the fleet": FLEET,
}
