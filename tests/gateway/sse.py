"""A reader of server-sent events as the standard has it. Source: html.spec.whatwg.org, "Interpreting an event stream"."""

import codecs
import json
import re
from typing import Any, NamedTuple

_LINE_END = re.compile("\r\n|\n|\r")


class Message(NamedTuple):
    """What a browser would dispatch."""

    event: str
    data: str
    last_id: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class SseReader:
    """Takes bytes as they come, cut anywhere."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.comments = 0
        self.retry: int | None = None
        self.last_id = ""
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._text = ""
        self._event, self._data = "", list[str]()

    def feed(self, received: bytes) -> list[Message]:
        """The messages that these bytes complete."""
        known = len(self.messages)
        self._text += self._decoder.decode(received)
        while True:
            end = _LINE_END.search(self._text)
            # A CR at the very end may be half of a CRLF.
            if end is None or (end[0] == "\r" and end.end() == len(self._text)):
                return self.messages[known:]
            line, self._text = self._text[: end.start()], self._text[end.end() :]
            self._take(line)

    def _take(self, line: str) -> None:
        if not line:
            if self._data:
                self.messages.append(Message(self._event or "message", "\n".join(self._data), self.last_id))
            self._event, self._data = "", []
            return
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "":
                self.comments += 1
            case "event":
                self._event = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self.last_id = value
            case "retry" if value.isdecimal():
                self.retry = int(value)
            case _:
                pass


def read_sse(body: bytes) -> list[Message]:
    """All messages of a whole body."""
    return SseReader().feed(body)
