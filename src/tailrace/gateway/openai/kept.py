"""What is kept of a response beside its log: how it was asked for, and the conversation that it ends."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from pydantic import JsonValue

from tailrace.gateway.access import Principal
from tailrace.gateway.errors import ApiError
from tailrace.gateway.gateway import Gateway
from tailrace.gateway.jobs import found_job
from tailrace.gateway.openai.answering import raise_if_failed, read_to_end
from tailrace.gateway.openai.origin import Asked, asked_of
from tailrace.joblog import Overview, read_whole
from tailrace.schemas import EndRecord, JobNotFound, JobRequest, JsonObject, decode
from tailrace.views.responses import response_object

#: The API of jobs whose upstream speaks Responses itself.
NATIVE: Final = "responses"
_NOTHING: Final[Mapping[str, list[JsonObject]]] = MappingProxyType({})


class Kept(NamedTuple):
    """A response that is there, and whoever asks may have it."""

    job_id: str
    overview: Overview
    asked: Asked

    @property
    def in_background(self) -> bool:
        return self.asked.given.get("background") is True

    @property
    def stored(self) -> bool:
        """Whether other responses may build on it."""
        return self.asked.given.get("store") is not False


async def kept_response(gateway: Gateway, job_id: str, principal: Principal) -> Kept:
    """Raises: ApiError (404), BrokerUnavailable."""
    try:
        _, overview = await found_job(gateway, job_id, principal)
        request = await _request(gateway, job_id)
    except JobNotFound:
        raise ApiError(404, f"Response with id {job_id!r} not found.", code="response_not_found", param="id") from None
    return Kept(job_id, overview, asked_of(request))


async def response_of(gateway: Gateway, kept: Kept) -> JsonObject:
    """The response object as it stands now."""
    tailrace = gateway.tailrace
    entries = await read_whole(tailrace.broker, tailrace.settings.keys, kept.job_id)
    return response_object(kept.job_id, entries, fields=kept.asked.fields)


async def whole(gateway: Gateway, kept: Kept) -> JsonObject:
    """The response object at its end, which is waited for.

    Raises: JobFailed, JobExpired; one that was cancelled is a response like others.
    """
    entries = await read_to_end(gateway, kept.job_id)
    end = decode(entries[-1])
    raise_if_failed(kept.job_id, end if isinstance(end, EndRecord) else None)
    return response_object(kept.job_id, entries, fields=kept.asked.fields)


async def conversation(
    gateway: Gateway,
    response_id: str | None,
    principal: Principal,
    local: Mapping[str, list[JsonObject]] = _NOTHING,
) -> list[JsonObject]:
    """The items up to and with a response, to go on from. `local`: conversations that are nowhere else, by the ids of the
    responses that they end with. Raises: ApiError, BrokerUnavailable."""
    if response_id is None:
        return []
    held = local.get(response_id)
    if held is not None:
        return held
    try:
        kept = await kept_response(gateway, response_id, principal)
    except ApiError:
        raise _no_previous(response_id) from None
    if not kept.stored:
        raise _no_previous(response_id)
    status = kept.overview.status
    if not status.ended:
        message = f"Response {response_id!r} is still {status}: wait for its end."
        raise _refused(message, "response_not_ended")
    if not status.well:
        raise _refused(f"Response {response_id!r} is {status}: nothing goes on from it.", "response_failed")
    return await conversation_with(gateway, kept)


async def conversation_with(gateway: Gateway, kept: Kept) -> list[JsonObject]:
    """The items up to and with a response: its own request holds all earlier ones."""
    output = objects((await response_of(gateway, kept)).get("output"))
    native = kept.overview.job.get("api") == NATIVE
    return [*kept.asked.before, *kept.asked.items, *said(output, native=native)]


async def _request(gateway: Gateway, job_id: str) -> JobRequest:
    tailrace = gateway.tailrace
    stored = await tailrace.broker.call("GET", tailrace.settings.keys.request(job_id))
    if stored is None:
        raise JobNotFound(job_id)
    return JobRequest.model_validate(json.loads(stored)["request"])


def said(output: list[JsonObject], *, native: bool) -> list[JsonObject]:
    """Output items as input. An upstream's own keep their ids, by which it knows its reasoning again; ours mean nothing to
    it."""
    if native:
        return output
    items: list[JsonObject] = []
    for item in output:
        if item.get("status") == "incomplete" and item.get("type") != "message":
            continue
        if item.get("type") != "reasoning":
            items.append({name: value for name, value in item.items() if name not in ("id", "status")})
    return items


def objects(items: JsonValue) -> list[JsonObject]:
    """The items of a list as foreign JSON has it."""
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _no_previous(response_id: str) -> ApiError:
    return _refused(f"Previous response with id {response_id!r} not found.", "previous_response_not_found")


def _refused(message: str, code: str) -> ApiError:
    return ApiError(400, message, code=code, param="previous_response_id")
