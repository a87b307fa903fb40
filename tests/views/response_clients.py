"""The openai package as a reader of Responses events: its own types, and its own accumulator."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, get_args

from openai import omit
from openai.lib.streaming.responses._responses import (  # what `client.responses.stream` folds with; it has no public name
    ResponseStreamState,
)
from openai.types.responses import Response, ResponseStreamEvent
from response_logs import JOB
from view_logs import Log

from tailrace.schemas import JsonObject
from tailrace.views import Frame, ResponsesView, Rewound

_EVENTS: Final[dict[str, Any]] = {
    get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(get_args(ResponseStreamEvent)[0])
}


def bodies(items: Iterable[Frame | Rewound]) -> list[JsonObject]:
    """The bodies of a stream that was not cut."""
    frames = list(items)
    assert not [item for item in frames if isinstance(item, Rewound)]
    return [item.body for item in frames if isinstance(item, Frame)]


def checked(events: Iterable[JsonObject]) -> list[Any]:
    """The events as the package's own models. Raises: pydantic.ValidationError."""
    return [_EVENTS[str(event["type"])].model_validate(event, strict=False) for event in events]


def checked_response(response: JsonObject) -> Response:
    """Raises: pydantic.ValidationError."""
    return Response.model_validate(response)


def folded(events: Iterable[JsonObject]) -> Any:
    """What `stream.get_final_response()` gives; None if there was no `response.completed`."""
    state: Any = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in checked(events):
        state.handle_event(event)
    return state._completed_response


def snapshot(events: Iterable[JsonObject]) -> list[Any]:
    """The items that the accumulator has made of deltas, by their index."""
    state: Any = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in checked(events):
        state.handle_event(event)
    return [state._output_items[index] for index in sorted(state._output_items)]


def streamed(events: Sequence[Any]) -> dict[int, str]:
    """The texts of the items, by index, as a client adds them up from deltas."""
    texts: dict[int, str] = {}
    for event in events:
        if event["type"] == "response.output_item.added":
            assert event["output_index"] == len(texts), "indexes without holes"
            texts[event["output_index"]] = ""
        elif event["type"].endswith(".delta"):
            texts[event["output_index"]] += event["delta"]
    return texts


def text_of(item: Any) -> str:
    if item["type"] == "function_call":
        return str(item["arguments"])
    return "".join(part.get("text", part.get("refusal")) for part in item.get("summary") or item.get("content") or ())


def check_story(events: Sequence[Any], response: Any) -> None:
    """What a client may rely on, and the package's own types and accumulator with it."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    checked(events)
    checked_response(response)
    texts = streamed(events)
    done: dict[int, Any] = {}
    for event in events:
        if event["type"] == "response.output_item.done":
            assert event["output_index"] not in done, "an item is done once"
            done[event["output_index"]] = event["item"]
        elif "output_index" in event:
            assert event["output_index"] not in done, "nothing of an item after it is done"
    assert response["status"] in ("queued", "in_progress") or done.keys() == texts.keys(), (
        "every item is done at the end"
    )
    indexes = {item["id"]: index for index, item in done.items()}
    assert len(indexes) == len(done), "ids of their own"
    for index, item in done.items():
        assert text_of(item) == texts[index]
    for item in response["output"]:
        if item["id"] in indexes:
            assert text_of(item) == texts[indexes[item["id"]]]
    if events[-1]["type"] == "response.completed":
        final = folded(events)
        assert [item.id for item in final.output] == [item["id"] for item in response["output"]]
        assert events[-1]["response"] == response


def told(log: Log, **fields: Any) -> list[Any]:
    """The events of a log, which the openai package understands."""
    view = ResponsesView(JOB, fields)
    found = bodies(view.feed(log.entries))
    check_story(found, view.response())
    return found


def kinds(events: list[Any]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def response(log: Log, **fields: Any) -> Any:
    view = ResponsesView(JOB, fields)
    view.feed(log.entries)
    checked_response(view.response())
    return view.response()


def texts(response_: Any) -> list[str]:
    return [part["text"] for item in response_["output"] if item["type"] == "message" for part in item["content"]]
