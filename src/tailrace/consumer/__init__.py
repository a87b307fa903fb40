"""Following jobs, any number of them over one connection of a process; and the hand-off of those that have ended.

Imports schemas, joblog, views and, of the queue, how an outage is told; knows nothing of producers and workers. Webhooks
are in `consumer.webhooks`, which needs packages of its own.
"""

from tailrace.consumer.ended import AsyncEnded
from tailrace.consumer.group import MAX_DELIVERIES, TAKEOVER_S, Begin, Choice, GroupReader
from tailrace.consumer.links import Kind
from tailrace.consumer.listing import Listed, Listing, OpenJobs, Wanted
from tailrace.consumer.parking import Parked, parked, unpark
from tailrace.consumer.reading import Consumer
from tailrace.consumer.stream import Stream
from tailrace.consumer.tails import Tails

__all__ = [
    "MAX_DELIVERIES",
    "TAKEOVER_S",
    "AsyncEnded",
    "Begin",
    "Choice",
    "Consumer",
    "GroupReader",
    "Kind",
    "Listed",
    "Listing",
    "OpenJobs",
    "Parked",
    "Stream",
    "Tails",
    "Wanted",
    "parked",
    "unpark",
]
