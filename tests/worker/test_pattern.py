"""Reading events without a parser gives what the parser gives, for whatever an upstream sends."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.worker.sources import ChatDecoder, CompletionsDecoder, Item, UpstreamError
from tailrace.worker.sources.decoding import EventReader
from tailrace.worker.sources.pattern import TextPattern
from tailrace.worker.sse import Event

#: Nearly alike events are what a pattern could get wrong: few texts, few frames, and what is awkward in both.
_TEXTS = st.sampled_from(
    [
        *["a", "b", "c", "xy"] * 5,
        "",
        " tok",
        '"',
        "\\",
        "\n",
        "é",
        "日本",
        "\u200d",
        "\x7f",
        "content",
        ":",
        "}",
        "0",
        "\ud800",
    ]
)
_FILLERS = st.sampled_from(["", "a", "abc", '"', "\\", "é", "content"])


def _frame(choice: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [choice], "usage": None, **fields}


#: What is now and then in a choice, its delta or beside `choices`; the text stands for `...`.
_USUAL: dict[str, Any] = {}
_IN_DELTA: list[dict[str, Any]] = [
    {"role": "assistant"},
    {"reasoning_content": ...},
    {"refusal": ...},
    {"x": ...},
    {"tool_calls": [{"index": 0, "id": "1", "function": {"name": "f", "arguments": "{"}}]},
]
_IN_CHOICE: list[dict[str, Any]] = [
    {"index": 1},
    {"finish_reason": None},
    {"finish_reason": "stop"},
    {"logprobs": {"content": ["x"]}},
]
_BESIDE: list[dict[str, Any]] = [{"created": 1}, {"created": 2}, {"id": ...}, {"usage": {"total_tokens": 3}}]
_DAMAGE = ["cut", "flip", "twin", "bare", "named", "done"]


@st.composite
def _streams(draw: st.DrawFn) -> list[Event]:
    """Events of one frame, now and then of another, now and then damaged."""
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    escaped, filled = draw(st.booleans()), draw(st.booleans())
    usual = draw(st.sampled_from([_USUAL, _USUAL, _USUAL, *_IN_DELTA]))
    events: list[Event] = []
    for _ in range(draw(st.integers(0, 20))):
        text = draw(_TEXTS)
        odd = draw(st.sampled_from([*[""] * 16, "delta", "choice", "beside", "damage"]))
        delta: dict[str, Any] = {**usual, "content": text}
        if odd == "delta":
            delta |= draw(st.sampled_from(_IN_DELTA))
        choice: dict[str, Any] = {"index": 0, "delta": {k: text if v is ... else v for k, v in delta.items()}}
        if odd == "choice":
            choice |= draw(st.sampled_from(_IN_CHOICE))
        body = _frame(choice)
        if odd == "beside":
            body |= {k: text if v is ... else v for k, v in draw(st.sampled_from(_BESIDE)).items()}
        if filled:
            body["obfuscation"] = draw(_FILLERS)
        raw = json.dumps(body, ensure_ascii=escaped, separators=separators).encode(errors="surrogatepass")
        events.append(_damaged(draw, raw) if odd == "damage" else Event(raw))
    return events


def _damaged(draw: st.DrawFn, raw: bytes) -> Event:
    match draw(st.sampled_from(_DAMAGE)):
        case "cut":
            return Event(raw[: draw(st.integers(0, len(raw)))])
        case "flip":
            at = draw(st.integers(0, len(raw) - 1))
            return Event(raw[:at] + draw(st.sampled_from([b'"', b"\\", b"\x00", b"x", b"}", b"\xff"])) + raw[at + 1 :])
        case "twin":  # the same name twice: the last one counts
            return Event(raw.replace(b'"content":', b'"content":"q","content":'))
        case "bare":
            return Event(b'{"broken"', bare=True)
        case "named":
            return Event(raw, draw(st.sampled_from(["error", "x"])))
        case _:
            return Event(b"[DONE]")


def _told(decoder: ChatDecoder, events: list[Event]) -> list[list[Item] | str]:
    told: list[list[Item] | str] = []
    for event in events:
        try:
            told.append(decoder.feed(event))
        except UpstreamError as error:  # the relay stops here; what comes after must be the same all the same
            told.append(f"{error.detail.type}: {error.detail.message}")
    try:
        told.append(repr(decoder.close()))
    except UpstreamError as error:
        told.append(error.detail.type)
    return told


class _Parsed(ChatDecoder):
    """Parses every event."""

    def __init__(self) -> None:
        super().__init__()
        self._pattern = _NoPattern()


class _NoPattern(TextPattern):
    def text(self, event: bytes) -> str | None:  # noqa: ARG002
        return None


@given(_streams())
def test_a_pattern_changes_nothing(events: list[Event]) -> None:
    assert _told(ChatDecoder(), events) == _told(_Parsed(), events)


def _parses(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    parsed: list[Event] = []
    read = EventReader.read

    def counted(self: EventReader, event: Event) -> dict[str, Any]:
        parsed.append(event)
        return read(self, event)

    monkeypatch.setattr(EventReader, "read", counted)
    return parsed


@pytest.mark.parametrize("filler", [False, True])
@pytest.mark.parametrize("text", [" token{}", "Größe{}", "日本{}"])
def test_events_that_differ_in_text_and_filler_are_parsed_once(
    monkeypatch: pytest.MonkeyPatch, text: str, filler: bool
) -> None:
    parsed = _parses(monkeypatch)
    decoder = ChatDecoder()
    texts = [text.format(number) for number in range(50)]
    for number, said in enumerate(texts):
        body = _frame({"index": 0, "delta": {"content": said}, "finish_reason": None})
        if filler:
            body["obfuscation"] = "abcdefgh"[: 1 + number % 7]
        assert decoder.feed(Event(json.dumps(body, ensure_ascii=False).encode())) == [said]
    assert len(parsed) == 1


def test_a_clock_in_the_events_costs_a_parse_when_it_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = _parses(monkeypatch)
    decoder = CompletionsDecoder()
    for number in range(100):
        body = _frame({"index": 0, "text": f"t{number}", "finish_reason": None}, created=number // 20)
        assert decoder.feed(Event(json.dumps(body).encode())) == [f"t{number}"]
    assert len(parsed) <= 10


def test_events_that_are_never_alike_are_not_learned_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[bytes] = []
    learn = TextPattern._know_tail  # pyright: ignore[reportPrivateUsage]  # called once for each pattern that is proved

    def counted(self: TextPattern, tail: bytes, *given: Any) -> None:
        tries.append(tail)
        learn(self, tail, *given)

    monkeypatch.setattr(TextPattern, "_know_tail", counted)
    decoder = ChatDecoder()
    for number in range(500):
        assert decoder.feed(Event(json.dumps(_frame({"index": 0, "delta": {"content": "t"}}, created=number)).encode()))
    assert len(tries) < 20


def test_a_text_that_stands_elsewhere_too_is_not_mixed_up() -> None:
    decoder = ChatDecoder()
    for said in ("c", "m", "x", "c"):
        body = {
            "id": "c",
            "note": {"content": "c"},
            "model": "m",
            "choices": [{"index": 0, "delta": {"content": said}}],
        }
        assert decoder.feed(Event(json.dumps(body).encode())) == [said]


def _learned() -> tuple[ChatDecoder, bytes]:
    """A decoder that has read two events of this form."""
    raw = json.dumps(_frame({"index": 0, "delta": {"content": "TEXT"}}, obfuscation="abc")).encode()
    decoder = ChatDecoder()
    for said in ("one", "two"):
        assert decoder.feed(Event(raw.replace(b"TEXT", said.encode()))) == [said]
    return decoder, raw


@pytest.mark.parametrize("text", [b"\x00", b"a\nb", b"\xff", b"\xed\xa0\x80", b'"', b"\\", b"\\x"])
def test_what_is_no_json_string_is_no_text(text: bytes) -> None:
    decoder, raw = _learned()
    with pytest.raises(UpstreamError, match="no JSON"):
        decoder.feed(Event(raw.replace(b"TEXT", text)))


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5])
def test_an_event_that_is_cut_is_no_event(cut: int) -> None:
    decoder, raw = _learned()
    with pytest.raises(UpstreamError, match="no JSON"):
        decoder.feed(Event(raw[:-cut]))


def test_an_error_is_an_error_even_if_it_looks_like_text() -> None:
    decoder, raw = _learned()
    with pytest.raises(UpstreamError) as caught:
        decoder.feed(Event(raw, "error"))
    assert caught.value.detail.type == "upstream_error"
    decoder, raw = _learned()
    assert decoder.feed(Event(b'{"error": {', bare=True)) == []
    with pytest.raises(UpstreamError):
        decoder.feed(Event(raw))
