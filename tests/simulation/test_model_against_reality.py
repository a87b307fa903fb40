"""The same operations on a real server, on fakeredis and on the simulated server: the same answers, the same keys.

What the suite learns on the two stand-ins holds for the real thing only as far as this does.
"""

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from .reality import UNCHECKED, raw, simulated

MAX: Final = b"18446744073709551615"

_ids = st.sampled_from(
    [b"0-0", b"0-1", b"1-0", b"1-1", b"1-2", b"2-1", b"3-0", b"5-3", b"5-4", b"7", MAX + b"-0", MAX + b"-" + MAX, b"x"]
)
_edges = st.one_of(_ids, _ids.map(lambda edge: b"(" + edge), st.sampled_from([b"-", b"+"]))
_keys = st.sampled_from([b"one", b"two"])
_numbers = st.sampled_from([b"0", b"1", b"2", b"3", b"-1", b"7"])
_words = st.sampled_from([b"", b"a", b"b", b"long\r\n\xff"])
_scores = st.sampled_from([b"1", b"2.5", b"1800000000000", b"-3", b"nan?"])


def _command(name: bytes, *parts: st.SearchStrategy[Any] | bytes) -> st.SearchStrategy[list[bytes]]:
    strategies = [st.just([part]) if isinstance(part, bytes) else part.map(_listed) for part in parts]
    return st.tuples(*strategies).map(lambda lists: [name, *(word for words in lists for word in words)])


def _listed(part: Any) -> list[bytes]:
    return [part] if isinstance(part, bytes) else list(part)


_count = st.one_of(st.just(()), st.sampled_from([(b"COUNT", b"1"), (b"COUNT", b"2")]))
_scored = st.sampled_from([(), (b"WITHSCORES",)])
COMMANDS: Final[dict[str, list[st.SearchStrategy[list[bytes]]]]] = {
    "streams": [
        *2 * [_command(b"XADD", b"one", _ids, b"f", _words)],
        _command(b"XADD", b"one", b"MAXLEN", b"2", _ids, b"f", _words),
        _command(b"XRANGE", b"one", _edges, _edges, _count),
        _command(b"XREVRANGE", b"one", _edges, _edges, _count),
        _command(b"XTRIM", b"one", b"MAXLEN", st.sampled_from([b"0", b"1", b"3"])),
        _command(b"XLEN", b"one"),
    ],
    "sorted sets": [
        _command(b"ZADD", _keys, st.sampled_from([(), (b"XX",), (b"NX",)]), _scores, _words),
        _command(b"ZADD", _keys, _scores, _words),
        _command(b"ZREM", _keys, _words),
        _command(b"ZSCORE", _keys, _words),
        _command(b"ZCARD", _keys),
        _command(b"ZRANGE", _keys, _numbers, _numbers, _scored),
        _command(
            b"ZRANGEBYSCORE", _keys, st.sampled_from([b"-inf", b"1", b"2"]), st.sampled_from([b"2", b"inf"]), _scored
        ),
        _command(b"ZRANGEBYSCORE", _keys, b"-inf", b"inf", _scored, b"LIMIT", b"0", _numbers),
    ],
    "hashes": [
        _command(b"HSET", _keys, _words, _words),
        _command(b"HSET", _keys, b"a", _words, b"b", _words),
        _command(b"HGET", _keys, _words),
        _command(b"HMGET", _keys, _words, _words),
        _command(b"HDEL", _keys, _words),
        _command(b"SCAN", b"0", b"MATCH", st.sampled_from([b"o*", b"no{*}"]), b"COUNT", b"100"),
    ],
    "strings and lists": [
        _command(b"SET", _keys, _words, st.sampled_from([(), (b"NX",), (b"PX", b"600000"), (b"NX", b"PX", b"600000")])),
        _command(b"GET", _keys),
        _command(b"GETRANGE", _keys, _numbers, _numbers),
        _command(b"INCR", _keys),
        _command(b"LPUSH", b"list", _words),
        _command(b"LTRIM", b"list", b"0", st.sampled_from([b"0", b"1"])),
        _command(b"LPOP", b"list"),
        _command(b"LLEN", b"list"),
    ],
}
_COMMON: Final = [
    _command(b"DEL", _keys),
    _command(b"EXISTS", _keys),
    _command(b"PTTL", st.just(b"never")),
    _command(b"PEXPIRE", _keys, b"0"),
]


def _itself(commands: st.SearchStrategy[list[bytes]]) -> st.SearchStrategy[list[bytes]]:
    return commands


COMMANDS["all together"] = [command for commands in COMMANDS.values() for command in commands]


@pytest.mark.parametrize("kind", COMMANDS)
def test_the_simulated_server_answers_as_the_real_one(kind: str, real: Redis) -> None:
    there = raw(real)

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=UNCHECKED)
    @given(st.lists(st.sampled_from([*4 * COMMANDS[kind], *_COMMON]).flatmap(_itself), min_size=20, max_size=60))
    def run(commands: list[list[bytes]]) -> None:
        there(["FLUSHALL"])
        here = simulated()
        for command in commands:
            assert here(command) == there(command), (command, commands)

    run()
