"""A reader that is cut off goes on where it was: no gap, no repeat. Another process could do it just as well.

Start a worker in another terminal (`tailrace worker`), then: python examples/resume.py
"""

from tailrace import START, Tailrace

with Tailrace() as tailrace:
    job = tailrace.submit(
        "Write me a 1 verse song about sparkling water.",
        model="gpt-3.5-turbo-instruct",
        temperature=0,
        max_tokens=512,
    )
    job_id, position = job.id, START
    for number, chunk in enumerate(job.stream(), start=1):
        print(chunk, end="|", flush=True)
        position = chunk.position
        if number == 10:
            break  # the line drops, the laptop lid closes ...

print(f"\n(cut off from job {job_id} after {position})")

with Tailrace() as tailrace:  # all that is needed are the id and the position
    for chunk in tailrace.job(job_id).stream(after=position):
        print(chunk, end="|", flush=True)
