"""What a writer says again to a server that lost the tail of the log."""

import json

from hypothesis import given
from hypothesis import strategies as st

from tailrace.schemas import Entry, Position
from tailrace.worker.memory import Line, Memory, chunk, rewind

Step = tuple[str, int]


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """A log with chunks, rewinds to earlier records, and attempts; every record at a position of its own."""
    entries = [Entry(Position("0-1"), "job", "{}"), Entry(Position("5-0"), "attempt", "{}")]
    epoch, seq = 5, 0
    for kind, number in draw(st.lists(st.tuples(st.sampled_from("cccra"), st.integers(0, 20)), max_size=15)):
        if kind == "a":
            epoch, seq = epoch + 1, 0
            entries.append(Entry(Position(f"{epoch}-0"), "attempt", "{}"))
            continue
        seq += 1
        position = Position(f"{epoch}-{seq}")
        if kind == "c":
            entries.append(Entry(position, "chunk", f"t{len(entries)} "))
        else:
            to = entries[number % (len(entries) - 1) + 1].position
            entries.append(Entry(position, "rewind", json.dumps({"run": 0, "to": to})))
    return entries


def text(memory: Memory) -> str:
    return "".join(line.text for line in memory.output())


@given(logs(), st.data())
def test_a_log_that_lost_its_tail_and_was_written_again_says_the_same(
    entries: list[Entry], data: st.DataObject
) -> None:
    memory = Memory(entries)
    before = text(memory)
    cut = data.draw(st.integers(1, len(entries) - 1))
    lost_at = entries[cut].position
    again = memory.go_back(lost_at)
    assert again is not None
    for number, line in enumerate(again, 1):
        line.position = Position(f"99-{number}")
        memory.add(line)
    assert text(memory) == before
    # What readers of the new log fold is the same, too: rewinds name positions that exist in it.
    reread = Memory(Entry(line.position or Position(""), line.field, line.value) for line in memory.lines)
    assert text(reread) == before


def test_a_rewind_follows_its_target_to_a_new_position() -> None:
    memory = Memory([Entry(Position("0-1"), "job", "{}"), Entry(Position("5-0"), "attempt", "{}")])
    kept = chunk("kept")
    kept.position = Position("5-1")
    memory.add(kept)
    back = rewind(kept)
    assert json.loads(back.value)["to"] == "5-1"
    assert memory.go_back(Position("5-0")) == [kept]
    kept.position = Position("7-1")
    assert json.loads(back.value)["to"] == "7-1"


def test_a_tail_that_somebody_else_wrote_is_not_ours_to_say_again() -> None:
    memory = Memory([Entry(Position("0-1"), "job", "{}")])
    memory.add(Line("attempt", "{}", Position("5-0")))
    assert memory.go_back(Position("6-3")) is None
