"""OpenAI-compatible servers that tailrace can start itself, so that it can be tried and tested without a key.

- `tailrace.upstreams.rehearsal`: the scripted upstream. A real HTTP server that answers at once, the same way each
  time, and breaks in every way that upstreams break, when the request asks for it. Also the test double.
- `tailrace.upstreams.local_model`: a small language model (SmolLM2-135M-Instruct) behind llama.cpp's own server.

The room imports `schemas` only. Both modules need an extra (aiohttp, xllamacpp), so nothing is re-exported here:
import the module that you use, or start it as `python -m tailrace.upstreams.<module> --port N`.
"""

__all__: list[str] = []
