"""What the rehearsal upstream remembers of its calls, and how to wait for it."""

import asyncio
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

#: `aborted`: the client went away first. `closed`: the rehearsal upstream was closed first. `broken`: its fault struck.
Outcome = Literal["running", "completed", "broken", "refused", "aborted", "closed"]

_SECRET: Final = frozenset({"authorization", "proxy-authorization", "api-key", "x-api-key", "cookie"})
#: Calls that are kept, and prompts that can be recognised at the beginning of a longer one.
_KEPT: Final = 20_000
_KNOWN: Final = 512


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call as it was when it was asked for; headers in lower case, keys and cookies replaced by `***`."""

    serial: int
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    started: float
    finished: float | None = None
    outcome: Outcome = "running"
    tokens: int = 0

    @property
    def aborted(self) -> bool:
        """The client went away before the answer was over."""
        return self.outcome == "aborted"


class OpenCall:
    """A call that runs. Whoever plays it counts the tokens and says how it ended."""

    def __init__(self, book: "CallBook", record: CallRecord) -> None:
        self._book = book
        self._record = record
        self.tokens = 0
        self.outcome: Outcome = "completed"

    @property
    def serial(self) -> int:
        return self._record.serial

    def sent(self) -> None:
        """One more token went out."""
        self.tokens += 1
        self._book.changed()

    def record(self) -> CallRecord:
        return replace(self._record, tokens=self.tokens)

    def close(self) -> CallRecord:
        return replace(self._record, tokens=self.tokens, finished=time.time(), outcome=self.outcome)


class CallBook:
    """All calls, in the order they came, and the counters that scripts refer to."""

    def __init__(self) -> None:
        self.closing = False
        self._serials = itertools.count(1)
        self._calls: deque[OpenCall | CallRecord] = deque(maxlen=_KEPT)
        self._running: dict[int, OpenCall] = {}
        self._counts: dict[str, int] = {}
        self._prompts: OrderedDict[str, None] = OrderedDict()
        self._waiters: set[asyncio.Event] = set()

    @property
    def calls(self) -> list[CallRecord]:
        return [call.record() if isinstance(call, OpenCall) else call for call in self._calls]

    @property
    def running(self) -> int:
        return len(self._running)

    def changed(self) -> None:
        for waiter in self._waiters:
            waiter.set()

    def reset(self) -> None:
        """Forget the calls that are over, the counters and the known prompts."""
        self._calls = deque((call for call in self._calls if isinstance(call, OpenCall)), maxlen=_KEPT)
        self._counts.clear()
        self._prompts.clear()
        self.changed()

    def count(self, key: str) -> int:
        """The number of this call among those with the same key, from 1."""
        self._counts[key] = self._counts.get(key, 0) + 1
        return self._counts[key]

    def learn(self, prompt: str) -> None:
        self._prompts[prompt] = None
        self._prompts.move_to_end(prompt)
        if len(self._prompts) > _KNOWN:
            self._prompts.popitem(last=False)

    def known_beginnings(self, prompt: str) -> list[str]:
        """Prompts of earlier calls with which this one begins, the longest first."""
        return sorted((p for p in self._prompts if p and p != prompt and prompt.startswith(p)), key=len, reverse=True)

    @contextmanager
    def open(self, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Generator[OpenCall]:
        """Keep the call while the block runs. Cancellation of the block means that the client went away."""
        shown = {name.lower(): "***" if name.lower() in _SECRET else value for name, value in headers.items()}
        call = OpenCall(self, CallRecord(next(self._serials), path, shown, body, time.time()))
        self._calls.append(call)
        self._running[call.serial] = call
        self.changed()
        try:
            yield call
        except asyncio.CancelledError:
            call.outcome = "closed" if self.closing else "aborted"
            raise
        except ConnectionError:
            # A write met the closed connection before its handler was cancelled.
            call.outcome = "aborted"
            raise
        except BaseException:
            call.outcome = "broken"
            raise
        finally:
            del self._running[call.serial]
            done = call.close()
            for index in range(len(self._calls) - 1, -1, -1):
                if self._calls[index] is call:
                    self._calls[index] = done
                    break
            self.changed()

    async def wait_until(self, condition: Callable[[], bool], description: str, timeout: float) -> None:
        """Return as soon as the condition holds; it is looked at after every change. Raises: TimeoutError."""
        changed = asyncio.Event()
        self._waiters.add(changed)
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            raise TimeoutError(f"waited {timeout} s in vain until {description}; calls: {self.calls[-3:]}") from None
        finally:
            self._waiters.discard(changed)
