"""What operators see of a process: metrics, traces, logs. Import its modules by name: each needs packages of its own.

Imports only schemas, joblog and queue. Nothing in here costs anything before somebody scrapes, traces or configures logs.
"""

__all__: list[str] = []
