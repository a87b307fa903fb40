"""Following jobs: any number of them over one connection of a process.

Imports schemas and joblog; knows nothing of producers and workers.
"""

from tailrace.consumer.reading import Consumer

__all__ = ["Consumer"]
