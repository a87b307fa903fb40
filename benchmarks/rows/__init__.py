"""The rows of the table: a module each, with a `ROW`. This is their order."""

from typing import Final

from benchmarks.rows import first_token, kill, pickup, task
from benchmarks.rows.row import Row

__all__ = ["ROWS", "Row"]

ROWS: Final[tuple[Row, ...]] = (pickup.ROW, first_token.ROW, task.ROW, kill.ROW)
