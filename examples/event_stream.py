"""Stream the events of a job, in the shape of LangChain's StreamEvent, and leave after a few of them.

The job goes on without us: anyone can read the rest by its id.
Start a worker in another terminal (`tailrace worker`), then: python examples/event_stream.py
"""

import asyncio
from contextlib import aclosing

from tailrace import AsyncTailrace


async def main() -> None:
    async with AsyncTailrace() as tailrace:
        job = await tailrace.submit(
            "Write me a 1 verse song about goldfish on the moon",
            model="gpt-3.5-turbo-instruct",
            temperature=0,
            max_tokens=512,
        )
        count = 0
        # `aclosing` stops the reading at the `break` rather than some time later: with any async generator.
        async with aclosing(job.stream_events(version="v1")) as events:
            async for event in events:
                count += 1
                if count >= 5:  # Truncate the output
                    print("...Truncated")
                    break
                print(event)


asyncio.run(main())
