"""An append-only file whose tail is damaged: the server cuts off a half-written command by itself, but no other damage.

A power cut can leave zeros or junk after the last good command. The server's own checker cuts them off; the damaged files
are kept beside the mended ones.
"""

import logging
import re
import shutil
import subprocess
import time
from typing import Final

from tailrace.joblog._server import Folder, environment, find_binary

__all__ = ["repair_after_damage"]

_log: Final = logging.getLogger("tailrace.embedded")
_DAMAGED: Final = re.compile(r"Bad file format reading the append only file (\S+\.(\d+)\.incr\.aof):")
# The server's program is its checker too if the name that it is called by contains the checker's: Redis's, or Valkey's.
CHECKER: Final = "redis-check-aof+valkey-check-aof"
CHECK_TIMEOUT_SECONDS: Final = 300


def repair_after_damage(folder: Folder) -> bool:
    """Whether the server died of a damaged append-only file that is now cut back to its last good command."""
    damaged = _DAMAGED.search(folder.log_tail())
    if damaged is None:
        return False
    data = folder.path / "appendonlydir"
    file = data / damaged[1]
    if any(_number(other.name) > int(damaged[2]) for other in data.glob("*.incr.aof")):
        # Damage before the last file: what comes after it would no longer follow from what stands.
        return False
    kept = folder.path / f"appendonlydir.damaged-{time.time_ns()}"
    shutil.copytree(data, kept)
    try:
        # The file by itself, not its manifest: by that, Valkey 9.1's checker takes its own base file for damaged.
        done = subprocess.run(  # noqa: S603 - the server's own program
            [CHECKER, "--fix", str(file)],
            executable=find_binary(),
            env=environment(),
            input="y\n",
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.warning("could not mend %s: %s", file, error)
        return False
    if done.returncode != 0:
        _log.warning("could not mend %s: %s", file, done.stdout.strip()[-500:])
        return False
    _log.warning(
        "the embedded server's data was damaged, perhaps by a power cut: cut back to the last good command; "
        "the damaged files are kept in %s",
        kept,
    )
    return True


def _number(name: str) -> int:
    return int(name.split(".")[-3])
