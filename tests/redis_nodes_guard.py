"""As tailrace's own guard of a private server (GUARD), for a folder with a folder for each of several servers.

`python -I -S redis_nodes_guard.py GUARD FOLDER PARENT_PID`
"""

import importlib.util
import os
import shutil
import sys
from typing import Any


def main(guard_file: str, folder: str, parent: int) -> None:
    # By its file: it is run with -I -S, which starts in a few milliseconds and finds no packages.
    spec = importlib.util.spec_from_file_location("guard", guard_file)
    assert spec is not None
    assert spec.loader is not None
    guard: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(guard)
    guard.wait_for_the_end_of(parent)
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        guard.kill_server(os.path.join(folder, name))
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
