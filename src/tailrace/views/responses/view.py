"""The Responses API's events of any job."""

from collections.abc import Mapping, Sequence
from typing import Final

from tailrace.schemas import VIEWS_VERSION, EndRecord, Entry, JsonObject, Position, TailraceError
from tailrace.views._fields import json_object, number
from tailrace.views._openai import Frame
from tailrace.views._standing import JOB, STANDS_AT, Cursor, drop_after
from tailrace.views.responses.telling import TOLD, Telling
from tailrace.views.text import Rewound

#: How each version of the views tells a log: an upgrade must not renumber the events of the jobs that there are.
_TELLINGS: Final[Mapping[int, type[Telling]]] = {1: Telling}


class ResponsesView:
    """The bodies of a response's events, `sequence_number` and all, whatever API the job's upstream speaks.

    The response's id is the job's. Events and numbers follow from the log alone and do not depend on when it is read or
    how it was cut into calls: who has seen number N goes on behind it by leaving out N + 1 events. A rewind closes the
    items that it voids as `incomplete` and tells what stands of them as new items; the final response has only what
    stands. A cancelled job closes its items and ends without a last event, for the API has none.

    `fields` are what the API says again of a request (`instructions`, `tools`, `metadata`, `background` ...), in every
    event that carries a whole response. They have no part in the numbers.

    A `Rewound` comes only if the server has lost records that this reader was shown, and what replaces them gives other
    events; nothing follows it.
    """

    def __init__(self, job_id: str, fields: JsonObject | None = None) -> None:
        self.job_id = job_id
        self._fields = fields or {}
        self._make = Telling
        self._telling = Telling(job_id, self._fields)
        self._cursor = Cursor()
        self._kept: list[Entry] = []
        self._owed: list[JsonObject] = []
        """Events that the reader was shown, of records that the server has lost since: they are not shown again."""
        self._rewound = False

    @property
    def end(self) -> EndRecord | None:
        return self._telling.end

    @property
    def job(self) -> JsonObject:
        """What the job record says; empty until it was fed."""
        return self._telling.job

    def response(self) -> JsonObject:
        """The Response object at this point: queued, in progress with what there is of its output, or as it ended."""
        return self._telling.response()

    def resume(self, position: Position) -> None:
        self._cursor.resume(position)

    def feed(self, entries: Sequence[Entry], *, show: bool = True) -> list[Frame | Rewound]:
        """Raises: TailraceError for a job that a later version has numbered in its own way."""
        frames: list[Frame | Rewound] = []
        if self._rewound:
            return frames
        for entry in entries:
            kind = entry.field
            lost = kind in STANDS_AT and self._lost(entry)
            self._cursor.at = entry.position
            if kind not in TOLD:
                continue
            if kind == JOB:
                self._begin(entry)
            self._kept.append(entry)
            bodies: list[JsonObject] | None = self._telling.take(entry)
            if lost or self._owed:
                bodies = None if lost else self._unseen(bodies or [])
            if bodies is None:
                self._rewound = True
                frames.append(Rewound(entry.position, ""))
                break
            frames += [Frame(entry.position, body) for body in bodies]
        return frames if show else []

    def _lost(self, entry: Entry) -> bool:
        """Take back what the server has lost. True if nobody can tell what the reader was shown of it."""
        top = self._cursor.lost(json_object(entry.value).get(STANDS_AT[entry.field]))
        unseen, self._cursor.unseen = self._cursor.unseen, False
        if top is None:
            return False
        shown = self._retell()
        drop_after(self._kept, top)
        self._owed = shown[len(self._retell()) :] + self._owed
        return unseen

    def _retell(self) -> list[JsonObject]:
        """Tell the log again from its first record; all its events."""
        self._telling = self._make(self.job_id, self._fields)
        return [body for entry in self._kept for body in self._telling.take(entry)]

    def _unseen(self, bodies: list[JsonObject]) -> list[JsonObject] | None:
        """Those that the reader has not been shown. None if it was shown others."""
        again = min(len(bodies), len(self._owed))
        if bodies[:again] != self._owed[:again]:
            return None
        self._owed = self._owed[again:]
        return None if self._owed and self.end is not None else bodies[again:]

    def _begin(self, job: Entry) -> None:
        version = number(json_object(job.value).get("views"), VIEWS_VERSION)
        if version not in _TELLINGS:
            raise TailraceError(
                f"job {self.job_id!r} has its events numbered by version {version} of the views, this tailrace knows "
                f"{sorted(_TELLINGS)}: upgrade it"
            )
        self._make = _TELLINGS[version]
        self._telling = self._make(self.job_id, self._fields)


def response_object(job_id: str, entries: Sequence[Entry], fields: JsonObject | None = None) -> JsonObject:
    """The Response object of a job, from its log so far. `fields` as for `ResponsesView`."""
    view = ResponsesView(job_id, fields)
    view.feed(entries)
    return view.response()
