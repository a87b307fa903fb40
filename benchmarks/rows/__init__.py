"""The rows of the table: a module each, with a `ROW`. This is their order."""

from typing import Final

from benchmarks.rows import (
    delivery,
    fan_out,
    first_token,
    gateway,
    kill,
    late_join,
    memory,
    no_op,
    pickup,
    processes,
    relay,
    retained,
    task,
)
from benchmarks.rows.row import Row

__all__ = ["ROWS", "Row"]

ROWS: Final[tuple[Row, ...]] = (
    pickup.ROW,
    first_token.ROW,
    relay.ROW,
    delivery.ROW,
    fan_out.ROW,
    gateway.ROW,
    late_join.ROW,
    memory.ROW,
    no_op.ROW,
    processes.ROW,
    task.ROW,
    retained.ROW,
    kill.ROW,
)
