"""A thousand prompts at once, a progress bar, and the answers as they end: one JSON object a line.

Start a worker in another terminal (`tailrace worker`), then: python examples/fan_out.py > answers.jsonl
Each job has an id of its prompt's own: cut off and started again, it goes on where it was and asks nothing twice.
"""

import asyncio
import json
import sys

from rich.console import Console
from rich.progress import track

from tailrace import AsyncTailrace, JobEnded

MODEL = "gpt-3.5-turbo-instruct"


async def main(count: int) -> None:
    bar = Console(stderr=True)
    async with AsyncTailrace() as tailrace:
        jobs = await tailrace.submit_many(
            {"prompt": f"What is {number} times {number}?", "model": MODEL, "job_id": f"squares-{number}"}
            for number in range(1, count + 1)
        )
        endings = asyncio.as_completed([job.result() for job in jobs])
        for ending in track(endings, "Asking", total=count, console=bar, disable=not bar.is_terminal):
            try:
                result = await ending
                print(json.dumps({"job": result.job_id, "text": result.text}))
            except JobEnded as error:
                print(json.dumps({"job": error.job_id, "error": str(error)}))


asyncio.run(main(count=int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
