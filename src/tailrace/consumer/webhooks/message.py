"""What a receiver is sent, and when it is sent again. Pure: no clock but the one that is passed in."""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from standardwebhooks import Webhook

from tailrace.consumer.ended import Notice
from tailrace.schemas import InvalidRequest, Status, WebhookSettings
from tailrace.schemas.secrets import secret_of

#: The events of OpenAI's webhooks, so that their SDKs know them. There is none for an expired job: `data.status` tells.
EVENT_TYPES: Final[Mapping[Status, str]] = {
    Status.COMPLETED: "response.completed",
    Status.INCOMPLETE: "response.incomplete",
    Status.FAILED: "response.failed",
    Status.EXPIRED: "response.failed",
    Status.CANCELLED: "response.cancelled",
}
_SECRET: Final = "whsec_"  # noqa: S105  # the prefix of all of them
#: The specification has 24 to 64 bytes.
_SECRET_BYTES: Final = range(24, 65)
_PAUSE_FACTOR: Final = 4.0
_JITTER: Final = 0.25


@dataclass(frozen=True, slots=True)
class Message:
    """One message; every try sends the same id and body."""

    id: str
    body: bytes


def message_of(namespace: str, target: str, notice: Notice) -> Message:
    """The message that tells a receiver of a job's end: always the same for one job and receiver."""
    # Of an id that is used again after its time, the incarnation is another one.
    about = "\0".join((namespace, target, notice.job_id, notice.incarnation))
    message_id = f"evt_{hashlib.sha256(about.encode()).hexdigest()[:32]}"
    data: dict[str, Any] = {"id": notice.job_id, "status": notice.status.value}
    if notice.task is not None:
        data["task"] = notice.task
    if notice.tags:
        data["tags"] = list(notice.tags)
    event = {
        "id": message_id,
        "object": "event",
        "type": EVENT_TYPES[notice.status],
        "created_at": int(notice.ended_at.timestamp()) if notice.ended_at else 0,
        "data": data,
    }
    return Message(message_id, json.dumps(event, separators=(",", ":")).encode())


class Signer:
    """Signs with each of a receiver's secrets, so that one can be exchanged for another. Shows none of them."""

    def __init__(self, signers: Sequence[Webhook]) -> None:
        self._signers = signers

    @classmethod
    def of(cls, name: str, settings: WebhookSettings, environment: Mapping[str, str]) -> "Signer":
        """Raises: InvalidRequest that names the variable, never what is in it."""
        where = f"the variable {settings.secret_env} of webhook {name!r}"
        secrets = secret_of(settings.secret_env, environment).split()
        if not secrets:
            raise InvalidRequest(f"{where} is not set: it must hold the secret, whsec_ and base64")
        for secret in secrets:
            try:
                size = len(base64.b64decode(secret.removeprefix(_SECRET), validate=True))
            except (binascii.Error, ValueError):
                size = 0
            if not secret.startswith(_SECRET) or size not in _SECRET_BYTES:
                raise InvalidRequest(f"{where} holds no secret: write whsec_ and the base64 of 24 to 64 random bytes")
        return cls([Webhook(secret) for secret in secrets])

    def headers(self, message: Message, now: datetime) -> dict[str, str]:
        """The three headers of a try at this time (which must know its zone)."""
        body = message.body.decode()
        at = now.astimezone(UTC)  # `sign` takes whatever it is given for UTC
        return {
            "webhook-id": message.id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(signer.sign(message.id, at, body) for signer in self._signers),
        }


def pause_s(settings: WebhookSettings, attempt: int, *, chance: float, retry_after_s: float | None = None) -> float:
    """How long to wait after the attempt-th try (from 1). `chance`: 0 to 1, so that not all come back together.

    A receiver that asks for a longer pause gets it, up to `longest_pause_s`.
    """
    pause = settings.first_pause_s * _PAUSE_FACTOR ** min(attempt - 1, 50)
    pause = min(pause, settings.longest_pause_s) * (1 - _JITTER + 2 * _JITTER * chance)
    return min(max(pause, retry_after_s or 0.0), settings.longest_pause_s)


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """What a Retry-After header asks for: seconds, or an HTTP date. Source: RFC 9110, 10.2.3."""
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return max(0.0, (at - now).total_seconds())
