"""Which events a reader asked for, by name, type and tag.

As LangChain's `astream_events` filters: an event is in if it meets any of the includes (or there are none), and out if
it meets any exclude. The type is that of the run (`llm`, `chat_model`, `chain`, `tool` ...), not the event's name; the
type of a custom event is its own name. Source: reference.langchain.com/python/langchain_core/runnables (astream_events).
"""

from collections.abc import Collection, Iterable
from typing import cast

from tailrace.schemas import REWIND_EVENT, InvalidRequest

Words = Collection[str] | None


class EventFilter:
    """Tells whether an event is wanted."""

    __slots__ = (
        "_exclude_names",
        "_exclude_tags",
        "_exclude_types",
        "_include_names",
        "_include_tags",
        "_include_types",
    )

    def __init__(
        self,
        *,
        include_names: Words = None,
        include_types: Words = None,
        include_tags: Words = None,
        exclude_names: Words = None,
        exclude_types: Words = None,
        exclude_tags: Words = None,
    ) -> None:
        self._include_names = _words("include_names", include_names)
        self._include_types = _words("include_types", include_types)
        self._include_tags = _words("include_tags", include_tags)
        self._exclude_names = _words("exclude_names", exclude_names) or frozenset()
        self._exclude_types = _words("exclude_types", exclude_types) or frozenset()
        self._exclude_tags = _words("exclude_tags", exclude_tags) or frozenset()

    def wants(self, name: str, kind: str, tags: Iterable[str]) -> bool:
        if name in self._exclude_names or kind in self._exclude_types or not self._exclude_tags.isdisjoint(tags):
            return False
        if self._include_names is None and self._include_types is None and self._include_tags is None:
            return True
        return self._asks_for(name, kind) or (
            self._include_tags is not None and not self._include_tags.isdisjoint(tags)
        )

    def wants_rewind(self, *, told: bool) -> bool:
        """Whether to tell that records of a run are void; `told` if anything of that run passed. Unlike other custom
        events a rewind follows what it takes back, so that no filter makes void text stand."""
        if REWIND_EVENT in self._exclude_names or REWIND_EVENT in self._exclude_types:
            return False
        return told or self._asks_for(REWIND_EVENT, REWIND_EVENT)

    def _asks_for(self, name: str, kind: str) -> bool:
        return (self._include_names is not None and name in self._include_names) or (
            self._include_types is not None and kind in self._include_types
        )


def _words(which: str, words: object) -> frozenset[str] | None:
    """Raises: InvalidRequest, for one bare string too: it would be taken letter by letter."""
    if words is None:
        return None
    if not isinstance(words, str) and isinstance(words, Collection):
        given = cast("Collection[object]", words)
        if all(isinstance(word, str) for word in given):
            return frozenset(cast("Collection[str]", given))
    raise InvalidRequest(f"{which} must be a list of strings or None, not {words!r}")
