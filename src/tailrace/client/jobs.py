"""What a worker's tasks submit other jobs with."""

from contextlib import suppress

from tailrace.client.asynchronous import AsyncTailrace
from tailrace.schemas import JobNotFound, JobRequest, Result


class JobsOf:
    """A client as `tailrace.tasks.Jobs`: for `Worker(jobs=...)`. The client stays its owner's."""

    def __init__(self, tailrace: AsyncTailrace) -> None:
        self._tailrace = tailrace

    async def submit(self, request: JobRequest, job_id: str) -> None:
        await self._tailrace.producer.submit(request, job_id=job_id)

    async def result(self, job_id: str) -> Result:
        return await self._tailrace.job(job_id).result()

    async def cancel(self, job_id: str) -> None:
        with suppress(JobNotFound):
            await self._tailrace.job(job_id).cancel()
