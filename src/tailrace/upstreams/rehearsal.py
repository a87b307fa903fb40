"""The rehearsal upstream: a real HTTP server that speaks the OpenAI protocol and answers from a script.

`POST /v1/chat/completions`, `/v1/completions` and `/v1/responses` (streamed or not), `GET /v1/models`, `GET /healthz`.
Without a script it gives a pleasant short answer, the same one each time. A script makes it say other things, at a
pace, or break: see `tailrace.upstreams._script.Script` for every key.

    model="rehearsal:tokens=50,pace=0.02"                      in the model's name
    {"model": "gpt-4o-mini", "rehearsal": {"fault": "cut"}}     in the body (`extra_body` of the openai package)

Going on from a partial answer (what `on_restart="continue"` asks for): a chat or Responses input whose last message
is the assistant's, or a legacy prompt that is an earlier prompt plus the beginning of its answer, gets the rest of the
answer only. A beginning that is not of this answer is left alone: the answer comes whole.

As a process of its own: `python -m tailrace.upstreams.rehearsal --port N`; then `GET /rehearsal/calls` shows the calls
and `POST /rehearsal/reset` forgets them.
"""

import argparse
import asyncio
import json
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any, Final, Self, cast

from aiohttp import web

from tailrace.upstreams._answer import plan, text_tokens
from tailrace.upstreams._ask import Api, Ask, BadRequest, parse_ask
from tailrace.upstreams._calls import CallBook, CallRecord, OpenCall
from tailrace.upstreams._child import ChildServer, watch_parent
from tailrace.upstreams._frames import ChatWire, LegacyWire, Wire
from tailrace.upstreams._play import Player, error_body
from tailrace.upstreams._responses import ResponsesWire
from tailrace.upstreams._script import MODEL, InvalidScript, Script, parse_pairs, parse_script
from tailrace.upstreams._words import VERSES

__all__ = ["CallRecord", "Rehearsal", "RehearsalProcess", "Script"]

_APIS: Final[Mapping[str, Api]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
}
_MODELS: Final = (MODEL, "gpt-4o-mini", "gpt-3.5-turbo-instruct")
#: Above the largest request that tailrace sends, images and all.
_LARGEST_BODY: Final = 256 * 1024 * 1024


class Rehearsal:
    """The rehearsal upstream in this process: `async with Rehearsal() as server`, then `server.base_url`.

    `script` is what requests get that do not say otherwise. With an `api_key`, other keys are answered with 401.
    """

    def __init__(self, port: int = 0, *, api_key: str | None = None, script: Mapping[str, Any] | None = None) -> None:
        self._port = port
        self._api_key = api_key
        self._script = dict(script or {})
        self._book = CallBook()
        self._runner: web.AppRunner | None = None
        self._handlers: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        parse_script(MODEL, None, self._script)
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/rehearsal/calls", self._show_calls)
        app.router.add_post("/rehearsal/reset", self._forget_calls)
        for path in _APIS:
            app.router.add_post(path, self._answer)
        app.router.add_route("*", "/{tail:.*}", self._unknown)
        self._book.closing = False
        # handler_cancellation: the client's leaving ends the handler at once, also while it waits.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=4096).start()
        except OSError:
            await self._runner.cleanup()
            raise
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._book.closing = True
        running = list(self._handlers)
        for handler in running:
            handler.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def base_url(self) -> str:
        """What the openai package takes as `base_url`."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def calls(self) -> list[CallRecord]:
        """Every call with a readable body, in the order they came, as they are now."""
        return self._book.calls

    @property
    def open_streams(self) -> int:
        """Calls that are being answered. A client that leaves is noticed at once."""
        return self._book.running

    def reset(self) -> None:
        """Forget the calls that are over, the counters of `times` and `seed_by`, and the known prompts."""
        self._book.reset()

    async def wait_until(
        self, condition: Callable[[], bool], description: str = "the condition holds", *, timeout: float = 5.0
    ) -> None:
        """Return as soon as the condition holds: it is looked at when a call begins, sends a token or ends.

        Raises: TimeoutError.
        """
        await self._book.wait_until(condition, description, timeout)

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _models(self, request: web.Request) -> web.Response:
        if (refusal := self._unauthorized(request)) is not None:
            return refusal
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "tailrace"} for name in _MODELS]
        return web.json_response({"object": "list", "data": models})

    async def _show_calls(self, _: web.Request) -> web.Response:
        calls = [asdict(call) for call in self._book.calls]
        return web.json_response({"open_streams": self._book.running, "calls": calls})

    async def _forget_calls(self, _: web.Request) -> web.Response:
        self._book.reset()
        return web.json_response({"status": "ok"})

    async def _unknown(self, request: web.Request) -> web.Response:
        message = f"Invalid URL ({request.method} {request.path})"
        return web.json_response(error_body(404, message, code="unknown_url"), status=404)

    def _unauthorized(self, request: web.Request) -> web.Response | None:
        if self._api_key is None or request.headers.get("authorization") == f"Bearer {self._api_key}":
            return None
        return web.json_response(error_body(401, "Incorrect API key provided."), status=401)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._handlers.add(task)
        try:
            return await self._read_and_play(request)
        except ConnectionError:
            # The client left in the middle of a write: there is nobody to answer.
            return web.Response()
        finally:
            self._handlers.discard(task)

    async def _read_and_play(self, request: web.Request) -> web.StreamResponse:
        try:
            sent: Any = json.loads(await request.read())
        except ValueError:
            return _bad_request("the body is no JSON")
        if not isinstance(sent, dict):
            return _bad_request("the body must be a JSON object")
        body = cast("dict[str, Any]", sent)
        with self._book.open(request.path, dict(request.headers), body) as call:
            call.outcome = "refused"
            if (refusal := self._unauthorized(request)) is not None:
                return refusal
            try:
                ask = parse_ask(_APIS[request.path], body)
                script = parse_script(ask.model, body.get("rehearsal"), self._script)
            except BadRequest as error:
                return _bad_request(str(error), error.param)
            except InvalidScript as error:
                return _bad_request(str(error), "rehearsal")
            call.outcome = "completed"
            return await self._play(request, body, call, ask, script)

    async def _play(
        self, request: web.Request, body: Mapping[str, Any], call: OpenCall, ask: Ask, script: Script
    ) -> web.StreamResponse:
        ask = self._continued(ask, script)
        number = self._book.count(script.key if script.key is not None else ask.prompt)
        if script.times is not None and number > script.times:
            script = script.model_copy(update={"fault": None})
        created = int(time.time())
        wire: Wire
        match ask.api:
            case "chat":
                wire = ChatWire(ask, script, call.serial, created)
            case "completions":
                wire = LegacyWire(ask, script, call.serial, created)
            case "responses":
                wire = ResponsesWire(ask, body, call.serial, created)
        return await Player(request, call, script).play(wire, plan(ask, script, number), stream=ask.stream)

    def _continued(self, ask: Ask, script: Script) -> Ask:
        """A legacy prompt that goes on from an earlier prompt's answer, taken apart; other requests as they are."""
        if ask.api != "completions" or len(ask.prompts) > 1:
            return ask
        verses = [prompt for prompt in VERSES if ask.prompt != prompt and ask.prompt.startswith(prompt)]
        for beginning in [*self._book.known_beginnings(ask.prompt), *verses]:
            rest = ask.prompt[len(beginning) :]
            if "".join(text_tokens(ask, script, beginning)).startswith(rest):
                return replace(ask, prompts=(beginning,), history=beginning, prefill=rest)
        self._book.learn(ask.prompt)
        return ask


def _bad_request(message: str, param: str | None = None) -> web.Response:
    return web.json_response(error_body(400, message, param=param), status=400)


class RehearsalProcess(ChildServer):
    """The rehearsal upstream as a process of its own, which never outlives this one.

    `with RehearsalProcess() as server` or `async with`; then `server.base_url`.
    """

    def __init__(self, port: int = 0, *, script: str = "") -> None:
        super().__init__("tailrace.upstreams.rehearsal", ["--port", str(port), "--script", script])


async def _serve(port: int, api_key: str | None, script: Mapping[str, Any], *, guarded: bool) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    if guarded:
        watch_parent(lambda: loop.call_soon_threadsafe(over.set))
    async with Rehearsal(port, api_key=api_key, script=script) as server:
        print(f"listening {server.base_url}", flush=True)  # noqa: T201  # the line that the starter waits for
        await over.wait()


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tailrace.upstreams.rehearsal", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--port", type=int, default=0, help="0: any free one; the first line of output names it")
    parser.add_argument("--api-key", help="answer other keys with 401")
    parser.add_argument("--script", default="", help="key=value,...: for requests that do not say otherwise")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when the starter ends")
    options = parser.parse_args()
    script = parse_pairs(options.script)
    asyncio.run(_serve(options.port, options.api_key, script, guarded=options.until_stdin_closes))


if __name__ == "__main__":
    _main()
