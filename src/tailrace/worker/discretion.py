"""What is said of errors, and kept out of what readers and logs get to see: the prompt. Pure."""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, cast

from tailrace.schemas import ErrorDetail, JobRequest
from tailrace.worker.sources.decoding import join_surrogates

#: So many characters in a row that are also in the request are a quotation of it.
_QUOTED: Final = 16
#: A shorter text is taken for a quotation only as a whole; shorter than this it is a word like any other.
_SHORTEST: Final = 4
_MARK: Final = "[prompt]"
_MESSAGE_LIMIT: Final = 2000


def told_of(error: BaseException) -> str:
    """Class and text of an exception of an author's, as the message of an `ErrorDetail`. It may quote a prompt."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # an author's class may not even know its text
        text = ""
    return storable(f"{name}: {text}" if text else name)


def storable(message: str) -> str:
    """So much of a message as is kept; JSON in UTF-8 has no place for lone surrogates."""
    return join_surrogates(message[:_MESSAGE_LIMIT])


def where_raised(error: BaseException) -> str:
    """Class and traceback of an exception, for a worker's own log: where, not what, since its text may quote a prompt."""
    return "\n".join((type(error).__name__, "".join(traceback.format_tb(error.__traceback__))))


def without_prompt(detail: ErrorDetail, request: JobRequest) -> ErrorDetail:
    """The same error without what its message quotes of the request: upstreams repeat what they do not like."""
    texts = texts_of(request)
    code = detail.code
    return detail.model_copy(
        update={
            "message": _cleared(detail.message, texts),
            "code": None if code is None else _cleared(code, texts),
        }
    )


def texts_of(request: JobRequest) -> frozenset[str]:
    """The request's own words, each text whole; without those so short that they say nothing."""
    texts = _texts([request.prompt, request.messages, request.input])
    return frozenset(text for text in texts if len(text) >= _SHORTEST)


def _cleared(message: str, texts: AbstractSet[str]) -> str:
    # Messages come on one line: so does the text that is looked for.
    for text in sorted({" ".join(text.split()) for text in texts} | texts, key=len, reverse=True):
        message = message.replace(text, _MARK) if len(text) < _QUOTED else _without_quotations(message, text)
    return message


def _without_quotations(message: str, text: str) -> str:
    """Every stretch of the message that is in the text is replaced, if it is long enough. The text may be a megabyte:
    it is searched some hundred times at most, for pieces that any quotation twice their length has one of."""
    piece = _QUOTED // 2
    kept: list[str] = []
    at = start = 0
    while at + piece <= len(message):
        found = text.find(message[at : at + piece])
        begin, end = at, at + piece
        if found >= 0:
            while begin > start and message[begin - 1 : end] in text:
                begin -= 1
            while end < len(message) and message[begin : end + 1] in text:
                end += 1
        if found >= 0 and end - begin >= _QUOTED:
            kept += (message[start:begin], _MARK)
            at = start = end
        else:
            at += piece
    kept.append(message[start:])
    return "".join(kept)


def _texts(value: object) -> Iterator[str]:
    """The strings in a part of a request that are somebody's words: not the names of fields and what they choose."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in cast("Mapping[str, object]", value).items():
            if name not in ("role", "type", "detail", "status"):
                yield from _texts(item)
    elif isinstance(value, Sequence):
        for item in cast("Sequence[object]", value):
            yield from _texts(item)
