"""What operators see of a process: traces and logs. Imports only `schemas`; who tells of something asks its modules.

Nothing in here is loaded, and nothing costs anything, before somebody traces or configures logs.
"""

__all__: list[str] = []
