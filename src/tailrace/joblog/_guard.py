"""Outlives its parent by a moment: when the parent dies, by whatever signal, the private server goes and its folder with it.

Run as a script (`python -I -S _guard.py FOLDER PARENT_PID`) with the read end of a pipe as standard input: the kernel
closes the other end when the parent dies. A death signal set with prctl would be Linux only, and is bound to the
*thread* that started the child. Imports nothing of tailrace, so that it starts in a few milliseconds.
"""

import fcntl
import os
import select
import shutil
import signal
import sys
import time

# A child that the parent forked without exec holds the pipe open too: so look at the parent's pid as well.
PARENT_CHECK_SECONDS = 0.5
PATIENCE_SECONDS = 10.0


def wait_for_the_end_of(parent: int) -> None:
    while os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], PARENT_CHECK_SECONDS)
        if readable and not os.read(0, 1):
            return


def is_alive(folder: str) -> bool:
    """Whether a server lives on this folder: it holds a lock from birth to death. A pid alone may be somebody else's."""
    try:
        lock = os.open(os.path.join(folder, "server.alive"), os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def kill_server(folder: str) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while is_alive(folder) and time.monotonic() < give_up:
        # The pid file may not be there yet: the parent can die while the server starts.
        try:
            with open(os.path.join(folder, "server.pid"), encoding="ascii") as file:
                os.kill(int(file.read()), signal.SIGKILL)
        except (OSError, ValueError):
            pass
        time.sleep(0.01)


def main(folder: str, parent: int) -> None:
    wait_for_the_end_of(parent)
    kill_server(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
