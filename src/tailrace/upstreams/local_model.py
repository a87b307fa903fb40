"""A small language model on this machine: SmolLM2-135M-Instruct behind llama.cpp's own HTTP server (xllamacpp).

`async with LocalModel() as model` (or `with`) fetches the weights once, starts the server as a child process, and
gives `model.base_url`. Chat completions, legacy completions and Responses; whatever model a request names, this one
answers. As a process of its own: `python -m tailrace.upstreams.local_model --port N`. It asks nobody for a key: `--host`
is for networks that only its users are in, such as one of containers.
"""

import argparse
import http.client
import importlib
import importlib.util
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tailrace.upstreams._child import ChildServer, UpstreamNotStarted, watch_parent
from tailrace.upstreams._model_file import SMOLLM2, ModelUnavailable, ModelWheel, Progress, ensure_model

__all__ = [
    "SMOLLM2",
    "LocalModel",
    "ModelUnavailable",
    "ModelWheel",
    "UpstreamNotStarted",
    "ensure_model",
    "is_installed",
]

#: The name it gives itself; requests may use any other.
NAME: Final = "smollm2-135m-instruct"

#: At temperature 0 the model answers some bare prompts with end-of-text at once. A request with a grammar or a schema
#: of its own replaces this one.
_NEVER_EMPTY: Final = r"root ::= [^\x00] [^\x00]*"


def is_installed() -> bool:
    """llama.cpp's server is there (extra `local-model`); the weights are fetched when they are needed."""
    return importlib.util.find_spec("xllamacpp") is not None


class LocalModel(ChildServer):
    """The local model as a child process, which never outlives this one: `with` or `async with`.

    `model` is a GGUF file; by default SmolLM2, fetched on entry with `progress`. `parallel` requests are answered at
    once, each with its share of `context` tokens; more wait without a word.
    Raises on entry: ModelUnavailable, UpstreamNotStarted.
    """

    def __init__(
        self,
        model: Path | None = None,
        *,
        port: int = 0,
        parallel: int = 4,
        context: int = 8192,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        options = ["--port", str(port), "--parallel", str(parallel), "--context", str(context)]
        options += [] if threads is None else ["--threads", str(threads)]
        super().__init__("tailrace.upstreams.local_model", options)
        self._model = model
        self._progress = progress

    def _prepare(self) -> list[str]:
        if not is_installed():
            raise UpstreamNotStarted("the local model needs llama.cpp: pip install 'tailrace[local-model]'")
        return ["--model", str(self._model or ensure_model(self._progress))]


def _llama_server(options: argparse.Namespace) -> Any:
    """llama.cpp's server, running in threads of its own; it listens when this returns."""
    # By name: the module is one compiled file without types, and not everybody has it.
    xllamacpp: Any = importlib.import_module("xllamacpp")
    wish = xllamacpp.CommonParams()
    wish.model.path = str(options.model)
    wish.model_alias = {NAME}
    wish.hostnames = [options.host]
    wish.port = options.port
    wish.n_parallel = options.parallel
    wish.n_ctx = options.context
    wish.cpuparams.n_threads = options.threads
    wish.cpuparams_batch.n_threads = options.threads
    wish.ui = False
    # Prompts that are kept to be continued: the default of 8 GiB is not for a guest on somebody's machine.
    wish.cache_ram_mib = 256
    wish.verbosity = 0
    grammar = wish.sampling.grammar
    grammar.type = xllamacpp.common_grammar_type.COMMON_GRAMMAR_TYPE_USER
    grammar.grammar = _NEVER_EMPTY
    wish.sampling.grammar = grammar
    return xllamacpp.Server(wish)


def _await_health(address: str, timeout: float = 60.0) -> None:
    """Return when the server says that the model is loaded. Raises: UpstreamNotStarted."""
    ends = time.monotonic() + timeout
    while time.monotonic() < ends:
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass  # not listening yet
        finally:
            connection.close()
        time.sleep(0.05)
    raise UpstreamNotStarted(f"llama.cpp did not load the model within {timeout:g} s")


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tailrace.upstreams.local_model", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; others than this machine need no key")
    parser.add_argument("--port", type=int, default=0, help="0: any free one; the first line of output names it")
    parser.add_argument("--model", type=Path, help="a GGUF file; default: SmolLM2, fetched once")
    parser.add_argument("--parallel", type=int, default=4, help="requests that are answered at once")
    parser.add_argument("--context", type=int, default=8192, help="tokens, shared by the requests")
    parser.add_argument("--threads", type=int, default=min(8, os.cpu_count() or 2))
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when the starter ends")
    options = parser.parse_args()
    over = threading.Event()

    def stop(_number: int, _frame: object) -> None:
        over.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if options.until_stdin_closes:
        # Also while the model loads: llama.cpp's threads end with the process, at once.
        watch_parent(lambda: os._exit(0))
    try:
        if not is_installed():
            raise UpstreamNotStarted("the local model needs llama.cpp: pip install 'tailrace[local-model]'")
        options.model = options.model or ensure_model()
        server = _llama_server(options)
        _await_health(server.listening_address)
    except (ModelUnavailable, UpstreamNotStarted, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(f"listening {server.listening_address}/v1", flush=True)  # noqa: T201  # the line that the starter waits for
    over.wait()
    # llama.cpp's threads do not end while a stream runs; the process has nothing else to keep.
    os._exit(0)


if __name__ == "__main__":
    _main()
