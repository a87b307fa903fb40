"""What a running process tells of itself: metrics, traces, logs. Import its modules by name: each needs packages of its own.

May import schemas, joblog and queue; producer, worker, consumer, client, gateway and cli import it.
"""

__all__: list[str] = []
