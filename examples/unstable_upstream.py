"""An upstream that breaks: what came before it broke is still delivered, then the loop raises.

Which upstream is asked is the worker's configuration, one line each in the file that TAILRACE_CONFIG names:

    [upstreams.default]
    base_url = "http://127.0.0.1:8080/v1"    # another service, or one in front of it
    proxy = "http://127.0.0.1:3128"          # or an HTTP proxy on the way to it

A broken stream is tried again where it broke off, without doubled text; `max_attempts` says how often.
Start a worker in another terminal (`tailrace worker`), then: python examples/unstable_upstream.py
"""

from tailrace import JobFailed, Tailrace

with Tailrace() as tailrace:
    job = tailrace.submit(
        "Write me a 1 verse song about sparkling water.",
        model="gpt-3.5-turbo-instruct",
        temperature=0,
        max_tokens=512,
        max_attempts=2,
    )
    try:
        for chunk in job.stream():
            print(chunk, end="|", flush=True)
    except JobFailed as failure:
        print(f"\nThe upstream broke: {failure.error.type} (worth another try: {failure.error.retryable})")
