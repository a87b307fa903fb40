"""LangChain's Runnables as tasks: each of their runs a run in the job's log.

    watching (their events and errors, in one order) -> publishing (which run is which, what is written of it) -> recorder
                                     chunks (a model's stream as items) ──┘   encoding (values as JSON)
    past (what earlier attempts left open)

Loaded by a worker only when it runs such a task: it imports langchain_core.
"""

from tailrace.worker.runnables.attempts import RunnableAttempts
from tailrace.worker.runnables.encoding import encode

__all__ = ["RunnableAttempts", "encode"]
