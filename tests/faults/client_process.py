"""A producer or a reader in a process of its own, to be killed.

`python client_process.py read SETTINGS JOB [AFTER]`    prints `<position> <kind> <JSON of a chunk's text, or null>` for
                                                        each record, and `end <status or error>`
`python client_process.py stream SETTINGS JOB [AFTER]`  prints `<position> <JSON of the chunk>`, and `end <status or error>`
`python client_process.py submit SETTINGS SCRIPT PREFIX` submits PREFIX0, PREFIX1 ... for ever; prints each id before
                                                        (`try ID`) and after it was accepted (`ok ID`)
"""

import asyncio
import json
import sys

from worker_process import end_with_stdin, shorten_the_grace, twist_the_clock


def say(*words: str) -> None:
    print(*words, flush=True)


async def main(what: str, settings_json: str, *arguments: str) -> None:
    from tailrace import START, AsyncTailrace, Settings, TailraceError

    shorten_the_grace()
    end_with_stdin(asyncio.get_running_loop())
    async with AsyncTailrace(settings=Settings.model_validate_json(settings_json)) as tailrace:
        if what == "submit":
            script, prefix = json.loads(arguments[0]), arguments[1]
            number = 0
            while True:
                say("try", f"{prefix}{number}")
                await tailrace.submit(prefix, job_id=f"{prefix}{number}", params={"rehearsal": script})
                say("ok", f"{prefix}{number}")
                number += 1
        job = tailrace.job(arguments[0])
        after = arguments[1] if len(arguments) > 1 else START
        try:
            if what == "read":
                async for record in job.records(after):
                    say(record.position, record.kind, json.dumps(getattr(record, "text", None)))
            else:
                async for chunk in job.stream(after):
                    say(chunk.position, json.dumps(str(chunk)))
            say("end", await job.status())
        except TailraceError as error:
            say("end", type(error).__name__)


if __name__ == "__main__":
    twist_the_clock()
    asyncio.run(main(*sys.argv[1:]))
