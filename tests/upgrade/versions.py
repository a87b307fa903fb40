"""One version of tailrace, by its command line: the same words in every version."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from subprocess import DEVNULL, PIPE, Popen
from typing import Any, Final

PATIENCE_S: Final = 60.0


class Version:
    """Commands of one version on one server and namespace."""

    def __init__(self, python: str, url: str, namespace: str) -> None:
        self._python, self.namespace = python, namespace
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TAILRACE_", "OPENAI_"))}
        settings = {"TAILRACE_WORKER": json.dumps({"lease_s": 1.0, "sweep_s": 0.5})}
        self._env = {**kept, **settings, "TAILRACE_REDIS_URL": url, "TAILRACE_NAMESPACE": namespace}
        # Not this folder: an old version must not find the new one's packages beside it.
        self._env.pop("PYTHONPATH", None)
        self._workers: list[Popen[str]] = []

    def __call__(self, *arguments: str) -> str:
        """What a command prints on standard output. Fails if it takes too long."""
        done = subprocess.run(
            self._command(*arguments),
            env=self._env,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def object(self, *arguments: str) -> dict[str, Any]:
        """What a command says as JSON."""
        found: dict[str, Any] = json.loads(self(*arguments, "--json"))
        return found

    def records(self, job_id: str) -> list[dict[str, Any]]:
        """The raw records of a job, to its end."""
        return [json.loads(line) for line in self("tail", job_id, "--records", "--json").splitlines()]

    def worker(self) -> "Popen[str]":
        """A worker on the rehearsal that takes jobs."""
        process = Popen(
            self._command("worker", "--rehearsal", "--json"),
            env=self._env,
            cwd="/",
            stdout=PIPE,
            stderr=DEVNULL,
            text=True,
        )
        self._workers.append(process)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["ready"]
        return process

    def close(self) -> None:
        """End its workers."""
        for process in self._workers:
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE_S)
            if process.stdout is not None:
                process.stdout.close()

    def _command(self, *arguments: str) -> list[str]:
        return [self._python, "-m", "tailrace.cli", *arguments]


def until(what: str, look: Callable[[], Any]) -> Any:
    """Look again until it is so."""
    give_up = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < give_up, what
        time.sleep(0.02)
    return found
