"""From the body of a response to its job, whichever door of the gateway it came in by."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from tailrace.gateway.access import Principal
from tailrace.gateway.access.submitting import store_for
from tailrace.gateway.errors import ApiError
from tailrace.gateway.gateway import Gateway
from tailrace.gateway.openai.bodies import ResponseBody
from tailrace.gateway.openai.compaction import unpacked
from tailrace.gateway.openai.items import check_calls, items_of
from tailrace.gateway.openai.kept import Kept, conversation
from tailrace.gateway.openai.options import Options
from tailrace.gateway.openai.origin import asked_of, origin_of, with_origin
from tailrace.gateway.openai.references import referred
from tailrace.gateway.openai.translate import chat_arguments, completions_arguments, native_params
from tailrace.gateway.openai.upstreams import environment, target_of
from tailrace.joblog import Overview
from tailrace.schemas import FIRST, JobNotFound, JobRequest, JsonObject, Status

PREFIX: Final = "resp_"
#: How long after its end a response can be read that was not to be stored: for whom the network has cut off.
_UNSTORED_RETENTION_S: Final = 60.0


_NOTHING: Final[Mapping[str, list[JsonObject]]] = MappingProxyType({})


async def create(
    gateway: Gateway,
    body: ResponseBody,
    options: Options,
    principal: Principal,
    local: Mapping[str, list[JsonObject]] = _NOTHING,
) -> Kept:
    """Submit the job of a response; sent again with the same id, it is the same job.

    `local`: conversations of responses that are not stored, by the ids of these: this one may go on from them.
    Raises: ApiError, InvalidRequest, JobConflict, QueueFull, BrokerUnavailable.
    """
    if body.background and body.store is False:
        message = "background needs store: a response that is not stored could not be retrieved"
        raise ApiError(400, message, code="invalid_request", param="store")
    if options.resume is not None:
        message = "a response is resumed by GET /v1/responses/{id}?stream=true&starting_after=N"
        raise ApiError(400, message, code="invalid_request", param="x-tailrace-resume")
    request = await _request_of(gateway, body, options, principal, local)
    stored = await store_for(
        gateway, principal, request, job_id=options.job_id, prefix=PREFIX, streamed=bool(body.stream)
    )
    try:
        overview = await gateway.tailrace.consumer.look(stored.job_id)
    except JobNotFound:  # deleted since, by somebody who knew its id
        overview = Overview(Status.QUEUED, FIRST, {}, None)
    return Kept(stored.job_id, overview, asked_of(request))


async def _request_of(
    gateway: Gateway,
    body: ResponseBody,
    options: Options,
    principal: Principal,
    local: Mapping[str, list[JsonObject]],
) -> JobRequest:
    settings = gateway.tailrace.settings
    sent: JsonObject = body.sent()
    target = target_of(settings, body.model, options.submit.get("upstream"), environment())
    native = target.dialect == "responses"
    items = [] if body.input is None else items_of(sent["input"])
    items = await referred(gateway, items, principal, native=native)
    before = await conversation(gateway, body.previous_response_id, principal, local)
    if not items and not before:
        raise ApiError(400, "input is missing", code="missing_required_parameter", param="input")
    whole = unpacked([*before, *items])
    if not (sent.get("conversation") or sent.get("prompt")):  # they may hold the calls
        check_calls(whole)
    arguments: dict[str, Any]
    match target.dialect:
        case "chat":
            arguments = chat_arguments(sent, whole, limit_field=target.limit_field)
        case "completions":
            arguments = completions_arguments(sent, whole)
        case "responses":
            # As it came, if there is nothing to add to it.
            as_sent = not before and whole == items_of(sent["input"])
            arguments = {"input": sent["input"] if as_sent else whole, "params": native_params(sent)}
    given: dict[str, Any] = {"upstream": target.upstream, "metadata": body.metadata, **options.submit}
    if body.store is False:
        given["retention"] = min(given.get("retention") or _UNSTORED_RETENTION_S, _UNSTORED_RETENTION_S)
    request = JobRequest.of(api=target.dialect, model=body.model, limits=settings.limits, **given, **arguments)
    return with_origin(request, origin_of(sent, before, items))
