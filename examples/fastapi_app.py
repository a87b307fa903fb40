"""A web page that shows an answer as it comes, and goes on where it was when the line drops or the page is reloaded.

Start a worker in another terminal (`tailrace worker`), then: uvicorn --app-dir examples fastapi_app:app
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import Body, FastAPI, Header, HTTPException, Response
from fastapi.responses import FileResponse, StreamingResponse

from tailrace import END, START, AsyncJob, AsyncTailrace, JobEnded, JobNotFound, StreamRewound

MODEL = "gpt-4o-mini"
tailrace = AsyncTailrace()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    async with tailrace:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("fastapi_app.html"))


@app.post("/jobs")
async def submit(prompt: Annotated[str, Body(embed=True)]) -> dict[str, str]:
    return {"id": (await tailrace.submit(prompt, model=MODEL)).id}


@app.get("/jobs/{job_id}/stream")
async def stream(job_id: str, last_event_id: Annotated[str, Header()] = START) -> Response:
    if last_event_id == END:
        return Response(status_code=204)  # an EventSource that lost its line at the very end: nothing more to come
    job = tailrace.job(job_id)
    try:
        await job.status()
    except JobNotFound as error:
        raise HTTPException(404, "no such job") from error
    return StreamingResponse(events(job, last_event_id), media_type="text/event-stream")


async def events(job: AsyncJob, after: str) -> AsyncGenerator[str]:
    while True:
        try:
            async with aclosing(job.stream(after=after)) as chunks:
                async for chunk in chunks:
                    yield sse("chunk", chunk, chunk.position)
            yield sse("end", "", END)
        except StreamRewound as rewound:  # a restarted attempt went another way: here is all of the text that stands
            after = rewound.position
            yield sse("rewind", rewound.text_before, after)
            continue
        except JobEnded as ended:
            yield sse("end", str(ended), END)
        return


def sse(event: str, text: str, position: str) -> str:
    return f"event: {event}\ndata: {json.dumps(text)}\nid: {position}\n\n"  # as JSON: text has line ends of its own
