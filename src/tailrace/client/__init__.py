"""The public face in Python: producer and consumer in one object, blocking and async.

Imports schemas, joblog, views, producer and consumer; loads neither openai nor arq.
"""

from tailrace.client.asynchronous import AsyncJob, AsyncTailrace, OnRewind
from tailrace.client.blocking import Job, Tailrace
from tailrace.client.ended import Ended
from tailrace.consumer import AsyncEnded, Parked

__all__ = ["AsyncEnded", "AsyncJob", "AsyncTailrace", "Ended", "Job", "OnRewind", "Parked", "Tailrace"]
