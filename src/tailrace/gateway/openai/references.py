"""Items that a request names by their ids, instead of sending them again."""

from collections.abc import Iterator, Sequence
from typing import Final

from tailrace.gateway.access import Principal
from tailrace.gateway.errors import ApiError
from tailrace.gateway.gateway import Gateway
from tailrace.gateway.openai.input_items import input_items
from tailrace.gateway.openai.kept import NATIVE, Kept, kept_response, objects, response_of, said
from tailrace.schemas import JsonObject

TYPE: Final = "item_reference"


async def referred(
    gateway: Gateway, items: Sequence[JsonObject], principal: Principal, *, native: bool
) -> list[JsonObject]:
    """The items, with those in the place of references that they name: input and output of any response that is stored here.

    `native`: the upstream speaks Responses, and may know what is not known here.
    Raises: ApiError, BrokerUnavailable.
    """
    known: dict[str, dict[str, JsonObject]] = {}
    found: list[JsonObject] = []
    for number, item in enumerate(items):
        if item.get("type") != TYPE:
            found.append(item)
            continue
        named = await _named(gateway, str(item.get("id")), principal, known)
        if named is None and not native:
            where = f"input[{number}]"
            raise ApiError(
                400, f"{where}: item with id {item.get('id')!r} not found", code="item_not_found", param=where
            )
        found.append(item if named is None else named)
    return found


async def _named(
    gateway: Gateway, item_id: str, principal: Principal, known: dict[str, dict[str, JsonObject]]
) -> JsonObject | None:
    for job_id in _jobs_of(item_id):
        if job_id not in known:
            known[job_id] = await _items(gateway, job_id, principal)
        if item_id in known[job_id]:
            return known[job_id][item_id]
    return None


def _jobs_of(item_id: str) -> Iterator[str]:
    """The jobs that an item may be of: our ids are a prefix, the job's id and one or two numbers."""
    _, _, rest = item_id.partition("_")
    for _ in range(2):
        rest, _, _ = rest.rpartition("_")
        if rest:
            yield rest


async def _items(gateway: Gateway, job_id: str, principal: Principal) -> dict[str, JsonObject]:
    """The items of a response by their ids, as a request would send them; none of one that is not there, or not stored."""
    try:
        kept = await kept_response(gateway, job_id, principal)
    except ApiError:
        return {}
    if not kept.stored:
        return {}
    items = {str(shown["id"]): item for shown, item in zip(input_items(kept), _given(kept), strict=True)}
    for item in objects((await response_of(gateway, kept)).get("output")):
        if item.get("status") != "in_progress":
            items |= {str(item.get("id")): each for each in said([item], native=kept.overview.job.get("api") == NATIVE)}
    return items


def _given(kept: Kept) -> list[JsonObject]:
    return [*kept.asked.before, *kept.asked.items]
