"""The renewal of leases in a simulated process: a task instead of a thread, which would know no virtual time."""

import asyncio
from typing import Any, cast

from redis.exceptions import RedisError

from tailrace.queue.renewal import RENEWALS_PER_LEASE, Renewal
from tailrace.queue.scripts import RENEW_LUA


class SimulatedRenewal(Renewal):
    """The bookkeeping and the script are the real ones. `client` makes an asyncio client."""

    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep(), name="renewal")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _keep(self) -> None:
        client = cast("Any", self._make_client())
        period_s = self._lease_ms / 1000 / RENEWALS_PER_LEASE
        client.connection_pool.connection_kwargs["socket_timeout"] = period_s
        script = client.register_script(RENEW_LUA)
        try:
            while True:
                await asyncio.sleep(period_s)
                for names, args, batch in self._calls():
                    try:
                        deadline_ms, gone = await script(keys=names, args=args)
                    except (RedisError, OSError):
                        continue
                    self._note(batch, {name.decode() for name in gone}, deadline_ms)
        finally:
            await client.aclose()
