"""Stream a completion from a background job, in async code.

Start a worker in another terminal (`tailrace worker`), then: python examples/async_stream.py
"""

import asyncio

from tailrace import AsyncTailrace


async def main() -> None:
    async with AsyncTailrace() as tailrace:
        job = await tailrace.submit(
            "Write me a 1 verse song about sparkling water.",
            model="gpt-3.5-turbo-instruct",
            temperature=0,
            max_tokens=512,
        )
        async for chunk in job.stream():
            print(chunk, end="|", flush=True)


asyncio.run(main())
