"""Stream a completion from a background job, in blocking code.

Start a worker in another terminal (`tailrace worker`), then: python examples/blocking_stream.py
"""

from tailrace import Tailrace

with Tailrace() as tailrace:
    job = tailrace.submit(
        "Write me a 1 verse song about sparkling water.",
        model="gpt-3.5-turbo-instruct",
        temperature=0,
        max_tokens=512,
    )
    for chunk in job.stream():
        print(chunk, end="|", flush=True)
