"""What a tenant's connections may carry and keep open. Outside all routes, so that none can forget it."""

from collections.abc import Iterable
from typing import Final, cast

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tailrace.gateway.access.key_access import KeyAccess, take_token
from tailrace.gateway.access.limits import Limits
from tailrace.gateway.access.principal import Access, Principal
from tailrace.gateway.errors import ApiError

_STREAMS: Final = (b"text/event-stream", b"application/x-ndjson")


class Bounds:
    """Reads no body for who has no key, no larger one than a tenant may send; counts and refuses streams."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._keys = access if isinstance(access, KeyAccess) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        take_token(scope)
        if self._keys is not None and scope["type"] == "http" and _has_body(headers := Headers(scope=scope)):
            try:
                limit = self._keys.tenant(headers).settings.max_body_bytes
                if limit is not None:
                    receive = _bounded(receive, headers, limit)
            except ApiError as refusal:
                await refusal.response()(scope, receive, send)
                return
        await self._counted(scope, receive, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Each stream counts from its beginning until its connection is done with it."""
        held: Limits | None = None
        refusal: ApiError | None = None

        async def counting(message: Message) -> None:
            nonlocal held, refusal
            if held is None and _begins_stream(message):
                limits = _limits_of(scope)
                if limits is not None:
                    try:
                        limits.check_stream()
                    except ApiError as error:
                        refusal = error
                        raise
                    held = limits
                    held.streams += 1
            await send(message)

        try:
            await self._app(scope, receive, counting)
        except Exception:
            # The server has not seen the response begin: whatever became of the refusal on its way through the application.
            if refusal is None:
                raise
            await refusal.response()(scope, receive, send)
        finally:
            if held is not None:
                held.streams -= 1


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _bounded(receive: Receive, headers: Headers, limit: int) -> Receive:
    """Raises: ApiError (413), at once or when so much has come."""
    message = f"the body has more than {limit} bytes, which is your limit"
    refusal = ApiError(413, message, code="body_too_large", headers={"Connection": "close"})
    said = headers.get("content-length", "0")
    if said.isdecimal() and int(said) > limit:
        raise refusal
    came = 0

    async def counted() -> Message:
        nonlocal came
        received = await receive()
        came += len(received.get("body", b""))
        if came > limit:
            raise refusal
        return received

    return counted


def _begins_stream(message: Message) -> bool:
    if message["type"] == "websocket.accept":
        return True
    if message["type"] != "http.response.start":
        return False
    headers = cast("Iterable[tuple[bytes, bytes]]", message.get("headers", ()))
    return any(name.lower() == b"content-type" and value.startswith(_STREAMS) for name, value in headers)


def _limits_of(scope: Scope) -> Limits | None:
    principal = cast("Principal | None", scope["state"].get("principal"))
    return None if principal is None else principal.limits
