"""Checking a task's input before it is stored, where a worker has told what the task takes."""

import time
from typing import Any, Final

from tailrace.joblog import Broker
from tailrace.queue import offered
from tailrace.schemas import BrokerUnsuitable, InvalidRequest, JobRequest, Keys

#: How long what a worker has told is taken for what it still tells.
_KNOWN_S: Final = 5.0
_MESSAGE_LIMIT: Final = 500
_KNOWN_TASKS: Final = 1000


class TaskInputs:
    """What the tasks of one namespace take, as far as it is known."""

    def __init__(self, broker: Broker, keys: Keys) -> None:
        self._broker, self._keys = broker, keys
        self._known: dict[str, tuple[float, dict[str, Any] | None]] = {}

    async def check(self, request: JobRequest) -> None:
        """Raises: InvalidRequest if the task is known and takes something else; BrokerUnavailable."""
        if request.task is None:
            return
        card = await self._card(request.task)
        if card is not None:
            _require(request.task, card.get("input"), request.input)

    async def _card(self, task: str) -> dict[str, Any] | None:
        if len(self._known) >= _KNOWN_TASKS:  # names that callers make up must not fill the memory
            self._known.clear()
        known = self._known.get(task)
        if known is None or known[0] < time.monotonic() - _KNOWN_S:
            try:
                card = await offered(self._broker, self._keys, task)
            except BrokerUnsuitable:  # who may not look leaves it to the worker
                card = None
            known = self._known[task] = (time.monotonic(), card)
        return known[1]


def _require(task: str, schema: Any, given: object) -> None:
    # Takes a while to import, and only tasks need it.
    import jsonschema
    import referencing

    library: Any = jsonschema
    references: Any = referencing
    try:
        # With a registry of nothing: a schema that somebody has planted fetches no URL.
        validator = library.Draft202012Validator(schema, registry=references.Registry())
        error = library.exceptions.best_match(validator.iter_errors(given))
    except Exception:  # whatever a schema that is none brings about
        return  # somebody else's data under our name: the worker will say what it takes
    if error is not None:
        where = ".".join(str(part) for part in ("input", *error.absolute_path))
        raise InvalidRequest(f"task {task!r} does not take this: {where}: {str(error.message)[:_MESSAGE_LIMIT]}")
