"""The pauses within streams, as a sample: measuring them all would cost every token its share. Pure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from tailrace.telemetry.metrics_counts import Distribution

if TYPE_CHECKING:
    from tailrace.worker.log_writer import LogWriter

#: Streams that are watched at a time; a flush asks for each of them whether it is in it.
_WATCHED: Final = 8
#: Who has said nothing for so long has left, or is nobody's example.
_LONGEST_S: Final = 300.0


class Pauses:
    """From one append of a stream to its next, for a few streams at a time.

    A stream is watched from a flush that it is in to the next such flush, then another one is: every pause is as likely to
    be measured as every other, however long it is.
    """

    def __init__(self, seen: Distribution) -> None:
        self._seen = seen
        self._since: dict[LogWriter, float] = {}

    def flushed(self, writers: "Mapping[LogWriter, None]", now: float) -> None:
        """These have something to append now."""
        since = self._since
        for writer in tuple(since):
            if writer in writers:
                self._seen.observe(now - since.pop(writer))
            elif now - since[writer] > _LONGEST_S:
                del since[writer]
        if len(since) < _WATCHED:
            for writer in writers:
                since[writer] = now
                if len(since) >= _WATCHED:
                    break

    def forget(self, writer: "LogWriter") -> None:
        """It has no more to say."""
        self._since.pop(writer, None)
