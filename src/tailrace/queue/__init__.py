"""The queue: job ids waiting for a worker, in the shape that arq reads, with leases.

Producers put ids in with a script (`ENQUEUE_LUA` inside the one that stores the job, or `enqueue` alone); workers take
them out with `tailrace.queue.leased.LeasedWorker`, which is not named here because it needs arq and producers do not.
May import: schemas, joblog.
"""

from tailrace.queue.claimed import CancelReason, Claimed
from tailrace.queue.control import CANCEL, Control, control_message
from tailrace.queue.enqueue import ENQUEUE_LUA, WAKE_LUA, enqueue, payload_key
from tailrace.queue.handback import hand_back
from tailrace.queue.named import ask_queues, forget_old_queues, known_queues, queues_told
from tailrace.queue.names import IN_PROGRESS_PREFIX, RETRY_PREFIX
from tailrace.queue.offers import offer, offered
from tailrace.queue.outage import Outage
from tailrace.queue.serializer import PayloadRefused, dump_payload, load_payload, queue_payload

__all__ = [
    "CANCEL",
    "ENQUEUE_LUA",
    "IN_PROGRESS_PREFIX",
    "RETRY_PREFIX",
    "WAKE_LUA",
    "CancelReason",
    "Claimed",
    "Control",
    "Outage",
    "PayloadRefused",
    "ask_queues",
    "control_message",
    "dump_payload",
    "enqueue",
    "forget_old_queues",
    "hand_back",
    "known_queues",
    "load_payload",
    "offer",
    "offered",
    "payload_key",
    "queue_payload",
    "queues_told",
]
