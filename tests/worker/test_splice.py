"""A restarted output: nothing doubled, nothing lost, whatever the two generations have in common."""

import json

from hypothesis import example, given
from hypothesis import strategies as st

from tailrace.schemas import Entry, OpenPart, Position
from tailrace.worker.memory import Line, Memory, chunk
from tailrace.worker.splice import Splice

Piece = str | int
"""A piece of output: text, or the number of the part (a delta) that opens."""

texts = st.text(alphabet="ab", min_size=1, max_size=3)
outputs = st.lists(texts | st.integers(0, 2), max_size=8)


def line(piece: Piece) -> Line:
    if isinstance(piece, str):
        return chunk(piece)
    return Line("delta", json.dumps({"run": 0, "delta": OpenPart(choice=piece).model_dump(mode="json")}))


def said(lines: list[Line]) -> list[Piece]:
    """What lines say, chunk borders aside."""
    pieces: list[Piece] = []
    for each in lines:
        if each.field == "delta":
            pieces.append(json.loads(each.text)["delta"]["choice"])
        elif pieces and isinstance(pieces[-1], str):
            pieces[-1] += each.text
        else:
            pieces.append(each.text)
    return pieces


def restart(first: list[Piece], second: list[Piece]) -> tuple[Memory, list[Line]]:
    """The log after both generations, and what the second one wrote."""
    log = Memory([Entry(Position("0-1"), "job", "{}"), Entry(Position("1-0"), "attempt", "{}")])
    start = Line("event", "{}", Position("1-1"))
    log.add(start)
    for piece in first:
        log.add(line(piece))
    splice = Splice(log.output(), base=start)
    wrote = [out for piece in second for out in splice.feed(line(piece))] + splice.close()
    for out in wrote:
        log.add(out)
    return log, wrote


@given(outputs, outputs)
@example(["ab"], ["a", "b"])
@example(["aa", 1, "b"], ["a"])
@example(["aaa"], ["aab"])
@example([1], [2])
def test_what_stands_after_a_restart_is_what_the_last_generation_said(first: list[Piece], second: list[Piece]) -> None:
    log, _ = restart(first, second)
    assert said(log.output()) == said([line(piece) for piece in second])


@given(outputs, st.data())
def test_a_generation_that_agrees_writes_only_what_is_new(whole: list[Piece], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(whole)))
    log, wrote = restart(whole[:cut], whole)
    assert all(out.field != "rewind" for out in wrote)
    assert said(wrote) == said([line(piece) for piece in whole[cut:]])
    assert said(log.output()) == said([line(piece) for piece in whole])


@given(outputs, outputs)
def test_a_rewind_keeps_every_record_inside_the_common_prefix(first: list[Piece], second: list[Piece]) -> None:
    log, wrote = restart(first, second)
    rewinds = [out for out in wrote if out.field == "rewind"]
    assert len(rewinds) <= 1
    if rewinds:
        assert wrote[0] is rewinds[0]
        target = rewinds[0].target
        assert target is not None
        kept = log.lines[3 : log.lines.index(target) + 1]
        flat = "".join(f"<{piece}>" if isinstance(piece, int) else piece for piece in second)
        prefix = "".join(f"<{piece}>" if isinstance(piece, int) else piece for piece in said(kept))
        assert flat.startswith(prefix)
