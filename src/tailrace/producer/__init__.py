"""Submitting and cancelling jobs; doing them again, and removing what is no longer wanted.

Imports schemas, joblog and queue (but nothing of arq); knows nothing of workers and consumers.
"""

from tailrace.producer.placing import new_job_id
from tailrace.producer.purging import Purger
from tailrace.producer.requeueing import Requeued, Requeueing, Requeuer
from tailrace.producer.submitting import Producer, Stored

__all__ = ["Producer", "Purger", "Requeued", "Requeueing", "Requeuer", "Stored", "new_job_id"]
