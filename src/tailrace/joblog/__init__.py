"""The log of one job over Redis: submit, claim, append, seal, erase; read and follow; connections; the embedded server.

Imports only schemas. docs/architecture.md tells the protocol and why it is what it is.
"""

from tailrace.joblog.connections import Broker, Script, connect
from tailrace.joblog.cursor import Cursor
from tailrace.joblog.follow import Batch, Feed, Follower, Look, follow
from tailrace.joblog.lua import ADMIT, STORE, queue_source, submit_source
from tailrace.joblog.opening import connected, connected_by
from tailrace.joblog.publication import Publication, parse_publication
from tailrace.joblog.pubsub import PubSub
from tailrace.joblog.reading import (
    Overview,
    Page,
    expired,
    incarnation_of,
    look,
    read_log,
    read_page,
    read_whole,
    seal_expired,
)
from tailrace.joblog.snapshot import decode_snapshot, encode_snapshot
from tailrace.joblog.translation import Word, between_nodes, in_our_words, not_carried_out, translated
from tailrace.joblog.writing import (
    APPEND,
    STANDS_MS,
    Appends,
    Claim,
    End,
    Ending,
    Fenced,
    Gone,
    LogRefusal,
    Lost,
    Sealed,
    append_command,
    claim,
    erase,
    hand_off,
    refuse,
    seal,
    store_snapshot,
)

__all__ = [
    "ADMIT",
    "APPEND",
    "STANDS_MS",
    "STORE",
    "Appends",
    "Batch",
    "Broker",
    "Claim",
    "Cursor",
    "End",
    "Ending",
    "Feed",
    "Fenced",
    "Follower",
    "Gone",
    "LogRefusal",
    "Look",
    "Lost",
    "Overview",
    "Page",
    "PubSub",
    "Publication",
    "Script",
    "Sealed",
    "Word",
    "append_command",
    "between_nodes",
    "claim",
    "connect",
    "connected",
    "connected_by",
    "decode_snapshot",
    "encode_snapshot",
    "erase",
    "expired",
    "follow",
    "hand_off",
    "in_our_words",
    "incarnation_of",
    "look",
    "not_carried_out",
    "parse_publication",
    "queue_source",
    "read_log",
    "read_page",
    "read_whole",
    "refuse",
    "seal",
    "seal_expired",
    "store_snapshot",
    "submit_source",
    "translated",
]
