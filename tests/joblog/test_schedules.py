"""The protocol under random schedules; and with each of its rules broken once, which the same schedules must notice.

TAILRACE_SCHEDULES=5000 makes a long run of it.
"""

import os
from typing import Any

import pytest
from log_model import Model
from redis.asyncio import Redis

from tailrace.joblog import Script, lua, submit_source, writing
from tailrace.producer import storing
from tailrace.queue import ENQUEUE_LUA
from tailrace.schemas import END

SCHEDULES = int(os.environ.get("TAILRACE_SCHEDULES", "40"))
#: A mutant that survives so many has not been noticed.
MUTANT_SCHEDULES = max(SCHEDULES, 2000)


async def run_schedule(redis: Redis, namespace: str, seed: int) -> None:
    model = Model(redis, f"{namespace}-{seed}", seed)
    try:
        await model.run()
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


@pytest.mark.timeout(max(60, SCHEDULES))
async def test_every_answer_is_the_models_and_readers_get_what_stands(real_redis: Redis, namespace: str) -> None:
    for seed in range(SCHEDULES):
        await run_schedule(real_redis, namespace, seed)


#: What is broken: script, text, what it is replaced with.
MUTANTS: dict[str, list[tuple[str, str, str]]] = {
    "submit takes an id twice": [("submit", "if there then return {there} end", "")],
    "submit calls every request the same": [("submit", "found == digest and 'same' or 'conflict'", "'same'")],
    "submit forgets the digest with the log": [
        ("submit", "local found = redis.call('GETRANGE', request, 11, 74)", "local found = ''")
    ],
    "claim breaks a seal": [("claim", "if sealed() then return {'sealed'} end", "")],
    "claim takes another job under the same id": [
        ("claim", "if not of_incarnation(ARGV[3]) then return {'gone'} end", "")
    ],
    "claim does not find itself": [("claim", "if record.nonce == ARGV[2] then", "if false then")],
    # With a coarser clock: two claims in one microsecond cannot be had to order.
    "claim takes the log from an epoch that it did not know of": [
        ("claim", "if stands > known then return {'fenced', id} end", "")
    ],
    "claim does not look at the last epoch that it knows of": [
        ("claim", ", known + 1)", ")"),
        ("claim", "tonumber(time[1]) * 1000000 + tonumber(time[2])", "tonumber(time[1])"),
    ],
    "claim gives an epoch twice": [
        ("claim", " + tonumber(ARGV[5])", ""),
        ("claim", "tonumber(time[1]) * 1000000 + tonumber(time[2])", "tonumber(time[1])"),
    ],
    "claim does not say after what": [("claim", '\'{"after":"\' .. id', "'{\"after\":\"' .. '0-1'")],
    "append does not compare": [("append", "if found ~= ARGV[2] then", "if false then")],
    "append does not find itself": [("append", "if found == last then return {'ok'} end", "")],
    "append calls a newer attempt a loss": [
        ("append", "if found_epoch > own_epoch then return {'fenced', found} end", "")
    ],
    "append calls a loss a newer attempt": [("append", "return {'lost', found}", "return {'fenced', found}")],
    "append does not know a seal": [("append", "if sealed() then return {'sealed'} end", "")],
    "append does not know another job under the same id": [
        ("append", "if not of_incarnation(ARGV[3]) then return {'gone'} end", "")
    ],
    "append publishes under another top": [("append", "publish(ARGV[1], found,", "publish(ARGV[1], '0-1',")],
    "seal makes a log that is gone": [("seal", "if redis.call('EXISTS', log) == 0 then return {'gone'} end", "")],
    "seal does not compare": [("seal", "if ARGV[2] ~= '' and found ~= ARGV[2] then", "if false then")],
    "seal writes a second end": [("seal", f"if found ~= '{END}' then", "if true then")],
    "seal does not say after what": [("seal", '\'{"last":"\' .. found', "'{\"last\":\"' .. '0-1'")],
    "seal takes another job's end for its own": [
        ("seal", "else\n  if ARGV[3] ~= '' and not of_incarnation(ARGV[3]) then return {'gone'} end", "else")
    ],
    "seal does not know a tombstone": [("seal", "if not found then return {'sealed', '', ''} end", "")],
    "erase empties an open log": [("erase", "if not sealed() then return {'open'} end", "")],
    "snapshot replaces an open log": [("snapshot", f"found ~= '{END}' or ", "")],
    "snapshot replaces another job's log": [
        ("snapshot", " or not of_incarnation(ARGV[1])", ""),
        ("snapshot", "ARGV[3] ~= '' and ", "false and "),
    ],
    "snapshot replaces an end that is not its own": [("snapshot", "ARGV[3] ~= '' and ", "false and ")],
    "snapshot leaves the log": [("snapshot", "redis.call('XTRIM', log, 'MAXLEN', 0)", "")],
    "a tombstone is no seal": [
        (script, "return redis.call('EXISTS', log) == 1", "return false") for script in ("claim", "append", "erase")
    ],
}


def mutate(monkeypatch: pytest.MonkeyPatch, changes: list[tuple[str, str, str]]) -> None:
    sources = {
        "submit": submit_source(ENQUEUE_LUA),
        "claim": lua.CLAIM,
        "append": lua.APPEND,
        "seal": lua.SEAL,
        "erase": lua.ERASE,
        "snapshot": lua.SNAPSHOT,
    }
    for script, text, instead in changes:
        assert text in sources[script], f"{script} has no {text!r}"
        sources[script] = sources[script].replace(text, instead)
    monkeypatch.setattr(storing, "SUBMIT", Script(sources["submit"]))
    for script in ("claim", "append", "seal", "erase", "snapshot"):
        mutant = Script(sources[script], allow_oom=script in ("seal", "erase"))
        monkeypatch.setattr(writing, script.upper(), mutant)
        if script == "append":
            monkeypatch.setattr("job_logs.APPEND", mutant)


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_broken_rule_is_noticed(
    mutant: str, real_redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch, MUTANTS[mutant])
    for seed in range(MUTANT_SCHEDULES):
        try:
            await run_schedule(real_redis, namespace, seed)
        except Exception as noticed:  # whatever it is that goes wrong
            print(f"{mutant}: seed {seed}: {type(noticed).__name__}: {noticed}")
            break
    else:
        pytest.fail(f"not noticed in {MUTANT_SCHEDULES} schedules")
    await flush(real_redis)


async def flush(redis: Any) -> None:
    """A mutant may have left keys without a time to live."""
    await redis.flushall()
