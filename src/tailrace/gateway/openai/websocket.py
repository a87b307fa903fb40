"""The WebSocket mode of the Responses API: several responses over one connection, each event a text frame.

The client sends `{"type": "response.create", ...}` with the fields of a response; one after the other are answered, those
with a `stream_id` beside those of other ids. What cannot be answered is an `error` event, and the connection stays open.
Jobs go on when the connection breaks: every response can be retrieved and resumed over HTTP. A response that is not stored
can be gone on from as long as the connection lasts, and it is the last one of its lane, and going on from it has not failed.
Source: the types of `ResponsesClientEvent` and `ResponsesServerEvent` in github.com/openai/openai-python; openresponses.org,
"WebSocket".
"""

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any, Final

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from tailrace.gateway.access import Asking, Principal
from tailrace.gateway.errors import ApiError, StreamBroken
from tailrace.gateway.gateway import Gateway, Here
from tailrace.gateway.jobs import reader_of
from tailrace.gateway.openai.answering import answered_events
from tailrace.gateway.openai.bodies import ResponseBody
from tailrace.gateway.openai.creating import PREFIX, create
from tailrace.gateway.openai.encoders import response_kind
from tailrace.gateway.openai.kept import Kept, conversation_with, kept_response
from tailrace.gateway.openai.options import Options, options_of
from tailrace.gateway.openai.refusals import refusal_of
from tailrace.gateway.streams import json_payload
from tailrace.joblog.tasks import end
from tailrace.schemas import JsonObject, TailraceError

logger = logging.getLogger(__name__)

router = APIRouter(tags=["openai"])

#: Lanes of one connection (its `stream_id`s), and requests that wait in one.
_LANES: Final = 16
_WAITING: Final = 16
#: How a response's last event begins.
_LAST: Final = tuple(b'{"type":"response.%b"' % status for status in (b"completed", b"incomplete", b"failed"))
#: Close codes. Source: RFC 6455, section 7.4.1.
_TRY_AGAIN: Final = 1013


@router.websocket("/v1/responses")
async def responses(socket: WebSocket, gateway: Here, principal: Asking) -> None:
    """Answer one connection's requests until it is closed."""
    options = options_of(socket.headers, principal, prefix=PREFIX)
    await socket.accept()
    await _Conversation(socket, gateway, principal, options).run()


class _Conversation:
    """One connection."""

    def __init__(self, socket: WebSocket, gateway: Gateway, principal: Principal, options: Options) -> None:
        self._socket, self._gateway, self._principal = socket, gateway, principal
        # An id of a job is of one request, a connection has many.
        self._options = Options(options.submit)
        self._lanes: dict[str | None, asyncio.Queue[JsonObject]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending = asyncio.Lock()
        self._last: dict[str | None, str] = {}
        """The response of each lane that `_local` has."""
        self._local: dict[str, list[JsonObject]] = {}
        """The conversations that end with responses that are not stored, by the ids of these."""

    async def run(self) -> None:
        try:
            while True:
                await self._take(await self._socket.receive_text())
        except (WebSocketDisconnect, KeyError):  # a KeyError for a frame of bytes
            pass
        finally:
            await end(self._tasks)

    async def _take(self, text: str) -> None:
        """Put a request into its lane."""
        lane: str | None = None
        try:
            sent = _event_of(text)
            given = sent.pop("stream_id", None)
            lane = None if given is None else str(given)
            if sent.pop("type", None) != "response.create":
                raise ApiError(400, "this connection takes events of type response.create", param="type")
            self._lane(lane).put_nowait(sent)
        except asyncio.QueueFull:
            await self._say_error(ApiError(429, f"{_WAITING} requests wait here already", code="queue_full"), lane)
        except ApiError as error:
            await self._say_error(error, lane)

    def _lane(self, lane: str | None) -> "asyncio.Queue[JsonObject]":
        queue = self._lanes.get(lane)
        if queue is None:
            if len(self._lanes) >= _LANES:
                raise ApiError(429, f"a connection has at most {_LANES} lanes", param="stream_id")
            queue = self._lanes[lane] = asyncio.Queue(_WAITING)
            self._tasks.add(asyncio.create_task(self._serve(lane, queue), name="tailrace-socket-lane"))
        return queue

    async def _serve(self, lane: str | None, queue: "asyncio.Queue[JsonObject]") -> None:
        """Answer a lane's requests, one after the other."""
        try:
            while True:
                await self._answer(await queue.get(), lane)
        except (WebSocketDisconnect, RuntimeError):  # RuntimeError: sending over a connection that is closed
            pass
        except StreamBroken as broken:
            logger.info("a response's stream over a WebSocket broke: %s", broken)
            await self._close()

    async def _answer(self, sent: JsonObject, lane: str | None) -> None:
        refusal: ApiError | None = None
        try:
            await self._tell(sent, lane)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            refusal = ApiError(400, f"{where}: {first['msg']}", code="invalid_request", param=where)
        except ApiError as error:
            refusal = error
        except TailraceError as error:
            refusal = refusal_of(error)
        if refusal is not None:
            self._local.pop(str(sent.get("previous_response_id")), None)
            await self._say_error(refusal, lane)

    async def _tell(self, sent: JsonObject, lane: str | None) -> None:
        """Answer with a response's events. Raises: ApiError, TailraceError before the first one; StreamBroken."""
        for name in ("background", "generate"):
            if sent.get(name) not in (None, name == "generate"):
                raise ApiError(400, f"{name}: not over a WebSocket", code="invalid_request", param=name)
        body = ResponseBody.model_validate(
            {**{name: sent[name] for name in sent if name != "generate"}, "stream": True}
        )
        kept = await create(self._gateway, body, self._options, self._principal, self._local)
        kind = response_kind(kept.asked.fields, lines=True)
        reader = reader_of(self._gateway, kept.job_id, kept.overview.job, kind)
        async with answered_events(self._gateway, kept.job_id, reader) as source:
            while (events := await source.next()) is not None:
                for event in events.splitlines():
                    if event.startswith(_LAST):  # who has read it may go on, or delete the response
                        await self._remember(kept, sent, lane)
                    await self._send(event, lane)

    async def _remember(self, made: Kept, sent: JsonObject, lane: str | None) -> None:
        """Keep the conversation of a response that nobody else keeps, and of a lane's only the last one."""
        previous = str(sent.get("previous_response_id"))
        if made.stored and previous not in self._local:
            return
        try:
            kept = await kept_response(self._gateway, made.job_id, self._principal)
            if not kept.overview.status.well:
                self._local.pop(previous, None)
            elif not made.stored:
                ended = await conversation_with(self._gateway, kept)
                self._local.pop(self._last.get(lane, ""), None)
                self._local[made.job_id], self._last[lane] = ended, made.job_id
        except (ApiError, TailraceError):  # deleted since, or out of reach: nothing goes on from it
            logger.info(
                "nothing goes on from response %r: it cannot be read", made.job_id, extra={"job_id": made.job_id}
            )

    async def _say_error(self, error: ApiError, lane: str | None) -> None:
        event: dict[str, Any] = {"type": "error", "status": error.status_code, **error.body}
        await self._send(json_payload(event), lane)

    async def _send(self, event: bytes, lane: str | None) -> None:
        if lane is not None:
            event = b'%b,"stream_id":%b}' % (event[:-1], json_payload(lane))
        # Who takes nothing is dropped: what waits for it must not grow.
        try:
            async with self._sending, asyncio.timeout(self._gateway.settings.stalled_s):
                await self._socket.send_text(event.decode())
        except TimeoutError:
            raise StreamBroken("its reader takes nothing") from None

    async def _close(self) -> None:
        with suppress(RuntimeError):  # it is closed
            await self._socket.close(_TRY_AGAIN, "the stream broke: retrieve the response, or stream it again")


def _event_of(text: str) -> JsonObject:
    try:
        sent: JsonObject = json.loads(text)
    except ValueError:
        raise ApiError(400, "the frame is no JSON", code="invalid_request") from None
    if not isinstance(sent, dict):  # pyright: ignore[reportUnnecessaryIsInstance]  # foreign JSON
        raise ApiError(400, "the frame must be a JSON object", code="invalid_request")
    return sent
