"""The worker: takes jobs off the queue, streams the answers of upstreams and writes them to the jobs' logs.

Needs the `worker` extra (arq, openai). Imports schemas, joblog, queue and views; knows nothing of producers and consumers.
"""

from tailrace.worker.app import Worker

__all__ = ["Worker"]
