"""What becomes of answers: every job that has ended is put into a database, once, whoever submitted it.

Start a worker in another terminal (`tailrace worker`), then: python examples/ended_pipeline.py answers.db
Run it as often as you like, also several at once: they share the work, and what one leaves undone another does.
"""

import sqlite3
import sys
from contextlib import closing, suppress

from tailrace import Ended, JobNotFound, Tailrace

TABLE = "CREATE TABLE IF NOT EXISTS answers (job_id TEXT PRIMARY KEY, status TEXT, text TEXT, tokens INTEGER)"


def keep(database: sqlite3.Connection, ended: Ended) -> None:
    result = ended.result()
    tokens = (result.usage or {}).get("completion_tokens")
    with database:  # a job may be handed out twice: its id makes the second time harmless
        row = (ended.job_id, ended.status.value, result.text, tokens)
        database.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", row)


with Tailrace() as tailrace, closing(sqlite3.connect(sys.argv[1])) as database:
    database.execute(TABLE)
    how_many = int(sys.argv[2]) if len(sys.argv) > 2 else None  # else it waits for the next one, for ever
    for number, ended in enumerate(tailrace.ended(group="answers"), start=1):
        with suppress(JobNotFound):  # deleted meanwhile
            keep(database, ended)
        ended.ack()  # not before it is stored: what is not acknowledged comes again
        print(ended.job_id, ended.status)
        if number == how_many:
            break
