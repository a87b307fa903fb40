"""What an error of a cluster says of the command: whether nothing came of it, and whether waiting helps."""

from typing import Any

import pytest
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)

from tailrace.joblog import between_nodes, in_our_words, not_carried_out

#: Their constructors have no annotations.
untyped: list[Any] = [TryAgainError, MovedError, AskError, ClusterDownError]
TRY_AGAIN, MOVED, ASK, CLUSTER_DOWN = untyped


@pytest.mark.parametrize(
    ("error", "certain", "on_its_way"),
    [
        (TRY_AGAIN("Multiple keys request during rehashing of slot"), True, True),
        (MOVED("2979 127.0.0.1:7000"), True, True),
        (ASK("2979 127.0.0.1:7000"), True, True),
        (CLUSTER_DOWN("The cluster is down"), True, False),
        (RedisConnectionError("Connection closed by server."), False, False),
        (TimeoutError(), False, False),
        (ResponseError("ERR unknown"), False, False),
    ],
)
def test_a_redirect_is_a_refusal_and_silence_is_not(error: Exception, certain: bool, on_its_way: bool) -> None:
    ours = in_our_words(error) or error
    if ours is not error:
        ours.__cause__ = error
    for each in (error, ours):
        assert (not_carried_out(each), between_nodes(each)) == (certain, on_its_way)
