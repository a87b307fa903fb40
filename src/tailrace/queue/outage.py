"""Redis is away: how long to wait before the next try, and one line in the log for the whole of it."""

import logging
from typing import Final

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0


class Outage:
    """Counts failures in a row of one user of Redis. Not shared between threads."""

    def __init__(self, user: str, logger: logging.Logger) -> None:
        self._user = user
        self._logger = logger
        self._failures = 0

    def failed(self, error: BaseException) -> float:
        """Seconds to wait before the next try. Logs the first failure of an outage only."""
        if not self._failures:
            self._logger.warning(
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
            self._logger.info("%s: Redis answers again after %d tries", self._user, self._failures)
            self._failures = 0
