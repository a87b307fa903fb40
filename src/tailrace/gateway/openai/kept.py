"""What is kept of a response beside its log: how it was asked for, and the conversation that it ends."""

import json
from typing import NamedTuple

from pydantic import JsonValue

from tailrace.gateway.access import Principal
from tailrace.gateway.errors import ApiError
from tailrace.gateway.gateway import Gateway
from tailrace.gateway.jobs import found_job
from tailrace.gateway.openai.origin import Asked, asked_of
from tailrace.joblog import Overview, read_whole
from tailrace.schemas import JobNotFound, JobRequest, JsonObject
from tailrace.views.responses import response_object


class Kept(NamedTuple):
    """A response that is there, and whoever asks may have it."""

    job_id: str
    overview: Overview
    asked: Asked

    @property
    def in_background(self) -> bool:
        return self.asked.given.get("background") is True


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


async def conversation(gateway: Gateway, response_id: str | None, principal: Principal) -> list[JsonObject]:
    """The items up to and with a response, to go on from: its own conversation holds all earlier ones. Raises: ApiError."""
    if response_id is None:
        return []
    try:
        _, overview = await found_job(gateway, response_id, principal)
        request = await _request(gateway, response_id)
    except JobNotFound:
        raise _no_previous(
            f"Previous response with id {response_id!r} not found.", "previous_response_not_found"
        ) from None
    if not overview.status.ended:
        raise _no_previous(
            f"Response {response_id!r} is still {overview.status}: wait for its end.", "response_not_ended"
        )
    if not overview.status.well:
        raise _no_previous(
            f"Response {response_id!r} is {overview.status}: nothing goes on from it.", "response_failed"
        )
    asked = asked_of(request)
    response = await response_of(gateway, Kept(response_id, overview, asked))
    return [*asked.before, *asked.items, *_said(response.get("output"), native=request.api == "responses")]


async def _request(gateway: Gateway, job_id: str) -> JobRequest:
    tailrace = gateway.tailrace
    stored = await tailrace.broker.call("GET", tailrace.settings.keys.request(job_id))
    if stored is None:
        raise JobNotFound(job_id)
    return JobRequest.model_validate(json.loads(stored)["request"])


def _said(output: JsonValue, *, native: bool) -> list[JsonObject]:
    """Output items as input. An upstream's own keep their ids, by which it knows its reasoning again; ours mean nothing to
    it."""
    items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
    if native:
        return items
    said: list[JsonObject] = []
    for item in items:
        if item.get("status") == "incomplete" and item.get("type") != "message":
            continue
        if item.get("type") != "reasoning":
            said.append({name: value for name, value in item.items() if name not in ("id", "status")})
    return said


def _no_previous(message: str, code: str) -> ApiError:
    return ApiError(400, message, code=code, param="previous_response_id")
