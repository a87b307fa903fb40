"""Lines of a process's log: as text for people, or as JSON, one object a line, for whatever collects them.

What is logged is told by the rooms, with the standard library's loggers below `tailrace`; fields go along as `extra=`. Never
among them: a prompt, an output, a key.
"""

import json
import logging
import math
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, Literal, TextIO, cast

from tailrace.telemetry.current import job_fields
from tailrace.telemetry.tracing import ids

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

#: One line for each job that begins, ends, is tried again: this logger can be turned down by itself.
JOBS: Final = "tailrace.jobs"
#: One line for each request of the gateway.
ACCESS: Final = "tailrace.access"

_TEXT: Final = "%(asctime)s %(levelname)s %(message)s"
#: Libraries whose INFO says nothing that ours does not say.
_CHATTY: Final = ("arq", "httpx", "httpx2", "openai", "asyncio", "opentelemetry")
#: What every record has; anything else was given by `extra=`.
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
#: Names of the line itself.
_TAKEN: Final = frozenset({"time", "level", "logger", "event", "exception"})


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: `time`, `level`, `logger`, `event`, then fields, those of the job at hand and the ids of
    the span at hand among them, at last `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update(job_fields())
        if (span := ids()) is not None:
            line["trace_id"], line["span_id"] = span
        for name, value in vars(record).items():
            if name not in _OWN and name not in _TAKEN and value is not None:
                line[name] = _plain(value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["exception"] = record.exc_text
        return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


class TextFormatter(logging.Formatter):
    """A record as it always was: time, level, message. What speaks of a job names it there."""

    def __init__(self) -> None:
        super().__init__(_TEXT)


def log_to_stderr(
    log_format: LogFormat = "text",
    level: LogLevel = "info",
    *,
    jobs: bool = True,
    access: bool = True,
    stream: TextIO | None = None,
) -> None:
    """Have this process log to standard error: our own lines from `level` on; of libraries never less than INFO, since what
    they tell for debugging has prompts and keys in it. `jobs`, `access`: whether there is a line for each job, each request."""
    number = logging.getLevelNamesMapping()[level.upper()]
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=max(number, logging.INFO), handlers=[handler])
    # By itself it is as loud as the root is.
    logging.getLogger("tailrace").setLevel(logging.NOTSET if number == logging.INFO else number)
    for name, wanted in ((JOBS, jobs), (ACCESS, access)):
        logging.getLogger(name).setLevel(logging.NOTSET if wanted else max(number, logging.WARNING))
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(max(number, logging.WARNING))


def _plain(value: object) -> object:
    """What JSON can hold. Of anything else only the class: its text is whoever's it is."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | bool):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in cast("Iterable[object]", value)]
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in cast("Mapping[object, object]", value).items()}
    return type(value).__name__
