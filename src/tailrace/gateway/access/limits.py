"""What one tenant may use, and has in use.

Requests and jobs are counted in Redis, over all gateways, by the server's time; streams in each process. A limit protects
one tenant from another, it is no guarantee: a server that lost its last second has forgotten some, never for longer than
a minute or a job lives.

Requests: a bucket that holds a minute's worth and is refilled evenly (GCRA), in one number: the time at which it is full.

Jobs: a hash of those that were let in. Nobody has to take a job out when it ends, so no crash leaves one in: when there is
no place, the logs are asked which of them have ended. A gateway that died between letting a job in and storing it leaves
an id without a log: it counts for `_STORED_WITHIN_MS`.
"""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Final

from tailrace.gateway.errors import ApiError
from tailrace.joblog import Broker, Script, Word, in_our_words
from tailrace.schemas import DEFAULT_QUEUE, END, BrokerUnavailable, JobRequest, Keys
from tailrace.schemas.sections import TenantSettings

_NOW: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
"""

#: KEYS bucket. ARGV requests per minute. Answers 0, or after how many ms to ask again. Sent twice, it counts twice.
_ADMIT: Final = Script(
    _NOW
    + """
local minute = 60000000
local cost = minute / tonumber(ARGV[1])
local full_at = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0))
-- The server's clock may have gone back: nobody waits longer than for a whole bucket.
full_at = math.min(full_at, now + minute) + cost
local too_early = full_at - (now + minute)
-- Sums of fractions: a millisecond is none.
if too_early > 1000 then return math.ceil(too_early / 1000) end
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', string.format('%.0f', math.ceil((full_at - now) / 1000)))
return 0
"""
)

#: KEYS jobs. ARGV job id, how many there may be, for how many ms this one may run at most.
_TAKE: Final = Script(
    _NOW
    + """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 'known' end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[2]) then return 'full' end
local now_ms, life_ms = math.floor(now / 1000), tonumber(ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f', now_ms, now_ms + life_ms))
if redis.call('PTTL', KEYS[1]) < life_ms then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 'taken'
"""
)

#: A job that was let in and has no log by then will have none: twice the time that a call may take.
_STORED_WITHIN_MS: Final = 30_000
#: How long the answer that there is no place holds in this process, so that who asks again and again costs Redis little:
#: a look takes two commands a job.
_LOOK_AGAIN_S: Final = 0.25
_LOOKED_AT_TOGETHER: Final = 250
#: Whether this request (its task) has been promised a place. What it does upon that, storing a job, must not be done again.
_PROMISED: Final = ContextVar("_PROMISED", default=False)
#: Nobody knows when a job or a stream ends.
_RETRY_AFTER_S: Final = 1


class Limits:
    """One tenant's limits, and what this process knows of their use. Shared by all of the tenant's requests."""

    def __init__(self, tenant: str, settings: TenantSettings) -> None:
        self.tenant, self.settings = tenant, settings
        self.streams = 0
        """How many streams are open in this process."""
        self._full_until = 0.0

    async def admit(self, broker: Broker, keys: Keys) -> None:
        """Count a request. Raises: ApiError (429), BrokerUnavailable."""
        limit = self.settings.requests_per_minute
        if limit is None:
            return
        wait_ms: int = await broker.queue.run(_ADMIT, [keys.tenant_requests(self.tenant)], [limit])
        if wait_ms:
            raise _refusal(
                f"more than {limit} requests a minute",
                # Rounded up: who comes back to the second must find a place.
                retry_after_s=-(-wait_ms // 1000),
            )

    def in_queue(self, request: JobRequest) -> JobRequest:
        """The request in a queue that the tenant's jobs may go to. Raises: ApiError (403)."""
        queues = self.settings.queues
        if request.queue in queues:
            return request
        if request.queue == DEFAULT_QUEUE:  # as good as none named
            return request.model_copy(update={"queue": queues[0]})
        message = f"your jobs may not go to queue {request.queue!r}, but to {', '.join(queues)}"
        raise ApiError(403, message, code="queue_not_allowed", param="queue")

    async def take_job(self, broker: Broker, keys: Keys, job_id: str, *, life_s: float) -> bool:
        """Make a place for a job that is about to be stored; False if it needs none.

        Raises: ApiError (429), BrokerUnavailable.
        """
        limit = self.settings.concurrent_jobs
        if limit is None:
            return False
        arguments: list[Word] = [job_id, limit, round(life_s * 1000)]
        answer = await broker.queue.run(_TAKE, [keys.tenant_jobs(self.tenant)], arguments)
        if answer == b"full":
            if await broker.call("EXISTS", keys.log(job_id)):
                return False  # sent again: the answer is the job that it is, or a conflict
            loop = asyncio.get_running_loop()
            if loop.time() >= self._full_until:
                await self._forget_ended(broker, keys)
                answer = await broker.queue.run(_TAKE, [keys.tenant_jobs(self.tenant)], arguments)
                if answer == b"full":
                    self._full_until = loop.time() + _LOOK_AGAIN_S
        if answer == b"full":
            raise _refusal(f"{limit} of your jobs are queued or running, which is as many as may be at a time")
        return bool(answer == b"taken")

    async def leave_job(self, broker: Broker, keys: Keys, job_id: str) -> None:
        """The job was not stored. Raises: BrokerUnavailable."""
        await broker.queue.call("HDEL", keys.tenant_jobs(self.tenant), job_id)

    def check_stream(self) -> None:
        """Promise this request a place for its stream. Raises: ApiError (429)."""
        if _PROMISED.get():
            return
        limit = self.settings.open_streams
        if limit is not None and self.streams >= limit:
            raise _refusal(f"{limit} of your streams are open here, which is as many as may be at a time")
        _PROMISED.set(True)

    async def _forget_ended(self, broker: Broker, keys: Keys) -> None:
        """Take out the jobs that have ended, and those that never began."""
        held: dict[bytes, bytes] = await broker.queue.call("HGETALL", keys.tenant_jobs(self.tenant))
        now_ms = await broker.queue.now_ms()
        gone: list[bytes] = []
        others: list[bytes] = []
        for job_id, times in held.items():
            (gone if now_ms > int(times.split()[1]) else others).append(job_id)
        for begin in range(0, len(others), _LOOKED_AT_TOGETHER):
            some = others[begin : begin + _LOOKED_AT_TOGETHER]
            logs = [keys.log(job_id.decode()) for job_id in some]
            # In this order: a log that comes between the two is not taken for a tombstone.
            answers = await broker.many(
                [each for log in logs for each in (("EXISTS", log), ("XREVRANGE", log, "+", "-", "COUNT", 1))]
            )
            for number, job_id in enumerate(some):
                if broker.spread and any(_is_away(each) for each in answers[2 * number : 2 * number + 2]):
                    continue  # of several servers this job's is away: it may be there
                exists, top = _checked(answers[2 * number : 2 * number + 2])
                young = now_ms < int(held[job_id].split()[0]) + _STORED_WITHIN_MS
                if top[0][0] == END.encode() if top else exists or not young:
                    gone.append(job_id)
        if gone:
            await broker.queue.call("HDEL", keys.tenant_jobs(self.tenant), *gone)


def _refusal(what: str, *, retry_after_s: int = _RETRY_AFTER_S) -> ApiError:
    return ApiError(
        429,
        f"rate limit reached: {what}; try again in {retry_after_s} s",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(retry_after_s)},
    )


def _is_away(answer: Any) -> bool:
    return isinstance(answer, Exception) and isinstance(in_our_words(answer), BrokerUnavailable)


def _checked(answers: Sequence[Any]) -> Sequence[Any]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise in_our_words(answer) or answer
    return answers
