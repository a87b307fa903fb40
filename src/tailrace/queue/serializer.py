"""What the queue carries besides an id: a few bytes of JSON which name the one function there is.

arq's default is pickle, which runs whatever code the writer of the key likes. This reads JSON only, no more than
`MAX_PAYLOAD_BYTES` of it, and takes nothing but the exact shape that `queue_payload` writes: the job's id is the
queue's id, so there is nothing else to say, and nothing that a planted payload could steer.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn, TypeGuard

from tailrace.queue.names import FUNCTION
from tailrace.schemas.errors import TailraceError

MAX_PAYLOAD_BYTES: Final = 256
MAX_TIME_MS: Final = 2**53

_FIELDS: Final = {"t", "f", "a", "k", "et"}


class PayloadRefused(TailraceError, ValueError):
    """A payload in the queue is not one of ours. The message says what is wrong, never what the payload holds."""


def queue_payload(now_ms: int) -> bytes:
    """The payload of a job queued at `now_ms`. The time serves arq's log lines only: any clock will do."""
    return dump_payload({"t": None, "f": FUNCTION, "a": [], "k": {}, "et": now_ms})


def dump_payload(payload: Mapping[str, Any]) -> bytes:
    """arq's `job_serializer`. Raises: PayloadRefused for all but a call of our function without arguments."""
    return json.dumps(_checked(payload), separators=(",", ":")).encode("ascii")


def load_payload(raw: bytes) -> dict[str, Any]:
    """arq's `job_deserializer`. Raises: PayloadRefused for all but a call of our function without arguments."""
    if len(raw) > MAX_PAYLOAD_BYTES:
        raise PayloadRefused(f"the payload is longer than {MAX_PAYLOAD_BYTES} bytes")
    try:
        payload: object = json.loads(raw.decode("ascii"), parse_constant=_refuse_constant)
    except PayloadRefused:
        raise
    # RecursionError: brackets nested deeper than the interpreter follows.
    except (ValueError, RecursionError):
        # Not chained: the decoder's error carries the whole text along.
        raise PayloadRefused("the payload is not JSON") from None
    return _checked(payload)


def _is_object(foreign: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(foreign, dict)


def _checked(payload: object) -> dict[str, Any]:
    if not _is_object(payload):
        raise PayloadRefused("the payload is no JSON object")
    if set(payload) != _FIELDS:
        raise PayloadRefused("the payload has other fields than ours")
    if payload["f"] != FUNCTION:
        raise PayloadRefused(f"the payload names a function other than {FUNCTION!r}")
    if payload["t"] is not None or payload["a"] not in ([], ()) or payload["k"] != {}:
        raise PayloadRefused("the payload carries arguments")
    queued_ms = payload["et"]
    if type(queued_ms) is not int or not 0 <= queued_ms < MAX_TIME_MS:
        raise PayloadRefused("the payload's time is no time")
    return {"t": None, "f": FUNCTION, "a": [], "k": {}, "et": queued_ms}


def _refuse_constant(name: str) -> NoReturn:
    raise PayloadRefused(f"the payload holds {name}")
