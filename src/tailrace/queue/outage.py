"""Redis is away: how long to wait before the next try, and one line in the log for the whole of it."""

import logging
import threading
import time
from typing import ClassVar, Final
from weakref import WeakKeyDictionary

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
#: Who has not tried for so long has ended, and does not keep the others' outage open.
_FORGOTTEN_S: Final = 30.0


class Outage:
    """Counts failures in a row of one user of Redis. Each instance belongs to one thread.

    A worker has half a dozen users of Redis, and all of them fail when it goes: the first of a process says so, and the last
    to recover says that it is over. What the others have to say is for who debugs.
    """

    _away: ClassVar[WeakKeyDictionary["Outage", float]] = WeakKeyDictionary()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, user: str, logger: logging.Logger) -> None:
        self._user = user
        self._logger = logger
        self._failures = 0

    def failed(self, error: BaseException) -> float:
        """Seconds to wait before the next try. Logs the first failure of an outage only."""
        others = self._others(away=True)
        if not self._failures:
            self._logger.log(
                logging.DEBUG if others else logging.WARNING,
                "%s: Redis does not answer as it should (%s: %s); trying again until it does",
                self._user,
                type(error).__name__,
                error,
            )
        pause_s: float = FIRST_PAUSE_S * (1 << min(self._failures, 10))
        self._failures += 1
        return min(pause_s, LONGEST_PAUSE_S)

    def over(self) -> None:
        """Redis answered."""
        if self._failures:
            level = logging.DEBUG if self._others(away=False) else logging.INFO
            self._logger.log(level, "%s: Redis answers again after %d tries", self._user, self._failures)
            self._failures = 0

    def _others(self, *, away: bool) -> bool:
        """Note where this user stands; whether another one of this process has an outage now."""
        now = time.monotonic()
        with self._lock:
            for user, since in list(self._away.items()):
                if now - since > _FORGOTTEN_S:
                    del self._away[user]
            if away:
                self._away[self] = now
            else:
                self._away.pop(self, None)
            return any(user is not self for user in self._away)
