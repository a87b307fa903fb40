"""A worker in a process of its own: `python recovery_process.py SETTINGS` (JSON). Says `ready` and ends with its standard
input. A prompt with POISON in it ends the process in the middle of the answer."""

import asyncio
import logging
import os
import sys
from typing import Final

POISON: Final = "<poison>"


async def main(settings_json: str) -> None:
    from tailrace.schemas import Settings
    from tailrace.worker.app import Worker
    from tailrace.worker.attempts import PromptAttempts
    from tailrace.worker.recorder import Recorder
    from tailrace.worker.sources import Outcome

    attempt = PromptAttempts.attempt

    async def poisoned(attempts: PromptAttempts, recorder: Recorder, number: int) -> Outcome:
        if POISON in str(recorder.job.request.messages):
            os._exit(9)
        return await attempt(attempts, recorder, number)

    PromptAttempts.attempt = poisoned  # type: ignore[method-assign,assignment]  # what a real poison does in C
    asyncio.get_running_loop().add_reader(0, lambda: os.read(0, 4096) or os._exit(3))
    async with Worker(Settings.model_validate_json(settings_json)) as worker:
        print("ready", flush=True)
        await worker.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    for chatty in ("arq", "httpx", "httpx2", "openai"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    asyncio.run(main(sys.argv[1]))
