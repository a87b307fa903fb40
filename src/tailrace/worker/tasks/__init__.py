"""Running tasks: each step a run in the job's log, what is finished taken from there by the next attempt.

    attempts (one after the other) -> context (what a task calls) -> ledger (which step is which run) -> recorder
                                      history (what earlier attempts left) ──┘

What authors of tasks see is in `tailrace.tasks`.
"""

from tailrace.worker.tasks.attempts import TaskAttempts

__all__ = ["TaskAttempts"]
