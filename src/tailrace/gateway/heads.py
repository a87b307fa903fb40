"""HEAD, wherever there is GET: load balancers and link checkers ask so. Source: RFC 9110, section 9.1."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Heads:
    """Answers HEAD with the head of what GET answers. A stream is left before its first event."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        # Without extensions: a stream would write past `send`.
        asked: Scope = {**scope, "method": "GET", "extensions": {}}
        answered = False

        async def head_only(message: Message) -> None:
            nonlocal answered
            if message["type"] != "http.response.start":
                return
            answered = True
            if "route" in asked:
                scope["route"] = asked["route"]  # for who counts and logs
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        async def gone_when_answered() -> Message:
            return {"type": "http.disconnect"} if answered else await receive()

        await self._app(asked, gone_when_answered, head_only)
