"""Submitting and cancelling jobs.

Imports schemas, joblog and queue (but nothing of arq); knows nothing of workers and consumers.
"""

from tailrace.producer.submitting import Producer, Stored, new_job_id

__all__ = ["Producer", "Stored", "new_job_id"]
