"""Every fault of the rehearsal upstream, alone and twice in a row: the whole text once, or a typed failure; no storms."""

import asyncio
from typing import Final, get_args

import pytest
from fault_world import World, world

from tailrace import JobFailed, Status
from tailrace.upstreams._script import Fault

TOKENS: Final = 12

#: What no second try can mend. Everything else ends well if it happens twice at most: there are three attempts.
FATAL: Final = {"html": "upstream_not_stream", "endless": "output_limit"}
#: What is no failure at all, however often it happens.
HARMLESS: Final = {"no_content", "no_done"}
#: What a fault that happens every time is called.
KINDS: Final = {
    **FATAL,
    "clean_end": "upstream_broken",
    "cut": "upstream_broken",
    "empty_data": "upstream_malformed",
    "error_bare": "upstream_error",
    "error_data": "upstream_error",
    "error_event": "upstream_error",
    "failed": "upstream_error",
    "huge": "upstream_malformed",
    "invalid_utf8": "upstream_malformed",
    "malformed": "upstream_malformed",
    "refuse": "upstream_broken",
    "reset": "upstream_broken",
    "slow_headers": "upstream_timeout",
    "stall": "upstream_stalled",
    "status": "upstream_status",
}
#: Three attempts at a stream, or one request with the openai package's two retries and ours: never their product, 9.
CALLS: Final = 5


async def run(w: World, fault: str, times: int | None) -> None:
    """One job whose upstream has the fault, held against what is promised."""
    script = {"fault": fault, "tokens": TOKENS, "at": 5, "pace": 0.005, "times": times}
    # Delayed, so that its readers are there before it begins.
    job = await w.submit(prompt=fault, delay=1.0, rehearsal={k: v for k, v in script.items() if v is not None})
    async with w.watching(job) as witness:
        pass
    calls = [call for call in w.rehearsal.calls if call.body["messages"][0]["content"] == fault]
    assert len(calls) <= (CALLS if times is None else times + 1)
    if fault in HARMLESS or (fault not in FATAL and times is not None):
        await witness.check("" if fault == "no_content" else w.text(TOKENS))
        return
    await witness.check(None, status=Status.FAILED)
    error = witness.errors["records"]
    assert isinstance(error, JobFailed)
    assert error.error.type == KINDS[fault], error
    if fault not in ("endless", "invalid_utf8"):
        assert w.text(TOKENS).startswith(witness.shown)


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(1, id="once", marks=pytest.mark.faults_fast),
        pytest.param(2, id="twice in a row"),
        pytest.param(None, id="every time"),
    ],
)
async def test_upstream_faults_end_in_the_whole_text_or_a_typed_failure(times: int | None) -> None:
    upstream = {"stall_timeout_s": 0.5, "first_byte_timeout_s": 0.5, "connect_timeout_s": 0.5}
    async with world(upstream=upstream, worker={"output_bytes": 3000}) as w:
        await w.start_worker()
        faults: tuple[str, ...] = get_args(Fault)
        found = await asyncio.gather(*[run(w, fault, times) for fault in faults], return_exceptions=True)
        broken = {fault: error for fault, error in zip(faults, found, strict=True) if error is not None}
        assert not broken, "\n".join(f"{fault}: {error!r}" for fault, error in broken.items())
