"""A research pipeline of three steps, the middle one two readers side by side, followed live as a tree of events.

It brings its own worker and a scripted model: python examples/pipeline.py "otters"
With a real model on this machine instead: python examples/pipeline.py "otters" --local-model
"""

import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from tailrace import App, Context, Settings, Tailrace

app = App()


@app.task
async def research(ctx: Context, topic: str) -> AsyncGenerator[str]:
    plan = await ctx.llm(f"Name two questions about {topic}.", name="plan")
    notes = await ctx.gather(
        ctx.llm(f"Answer the first of: {plan}", name="read", tags=["first"]),
        ctx.llm(f"Answer the second of: {plan}", name="read", tags=["second"]),
    )
    ctx.emit("notes", {"words": sum(len(note.split()) for note in notes)})
    yield f"{topic}: "
    async for piece in ctx.llm(f"Write a line about {topic} from {notes}", name="write"):
        yield piece


def main(topic: str = "otters", model: str = "--rehearsal") -> None:
    namespace = "pipeline-example"
    command = ["-m", "tailrace.cli", "worker", "pipeline:app", model, "--namespace", namespace]
    here = Path(__file__).parent
    with subprocess.Popen([sys.executable, *command], cwd=here, stderr=subprocess.DEVNULL) as worker:
        try:
            with Tailrace(settings=Settings.load(namespace=namespace)) as tailrace:
                job = tailrace.submit(task="research", input=topic)
                for event in job.stream_events():
                    if not event["event"].endswith("_stream"):
                        print("  " * len(event["parent_ids"]) + event["event"], event["name"], *event["tags"])
                print(job.text())
        finally:
            worker.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
