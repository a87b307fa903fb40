"""A reader of a group in a process of its own: `python ended_process.py <file>` appends a line for each job it handles.

It reads the environment as everybody does. Between what it writes and its `ack` it may be killed.
"""

import sys
import time
from pathlib import Path

from tailrace import Tailrace


def main(path: Path) -> None:
    with Tailrace() as tailrace, path.open("a", encoding="utf-8") as file:
        for ended in tailrace.ended("killed", takeover=0.3, max_deliveries=1000):
            file.write(f"{ended.job_id} {ended.result().text}\n")
            file.flush()
            time.sleep(0.005)
            ended.ack()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
