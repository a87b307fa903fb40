"""Processes as they are run: a producer and a worker that export to a collector; and one in which nobody traces."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from anyio.from_thread import start_blocking_portal
from collector import collecting
from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SDK_DISABLED, OTEL_SERVICE_NAME

from tailrace import InvalidRequest
from tailrace.telemetry.tracing_sdk import exporters_asked_for, traces
from tailrace.upstreams.rehearsal import Rehearsal

KEY: Final = "sk-canary-7Yq2Zk9rT4"
PROMPT: Final = "canary prompt Wj8vB3xN of Zebulon"

PRODUCER: Final = f"""
import os
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tailrace import Tailrace

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
with Tailrace() as tailrace, trace.get_tracer("app").start_as_current_span("web request"):
    job = tailrace.submit({PROMPT!r}, job_id="the-job", model="rehearsal")
    print(job.text())
provider.shutdown()
"""


def environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "OPENAI_", "TAILRACE_"))}
    return {**kept, **extra}


@pytest.mark.timeout(90)
def test_a_trace_goes_from_process_to_process_and_into_the_upstream(
    server_url: str, namespace: str, tmp_path: Path
) -> None:
    config = tmp_path / "tailrace.toml"
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(Rehearsal(api_key=KEY)) as rehearsal,
        collecting() as collector,
    ):
        config.write_text(f'[upstreams.default]\nbase_url = "{rehearsal.base_url}"\napi_key_env = "CANARY_KEY"\n')
        env = environment(
            TAILRACE_REDIS_URL=server_url,
            TAILRACE_NAMESPACE=namespace,
            TAILRACE_CONFIG=str(config),
            TAILRACE_LOG_FORMAT="json",
            CANARY_KEY=KEY,
            **{OTEL_EXPORTER_OTLP_ENDPOINT: collector.url},
        )
        command = [sys.executable, "-m", "tailrace.cli", "worker", "--json", "--log-level", "debug"]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
            try:
                assert worker.stdout is not None
                assert b"ready" in worker.stdout.readline()
                web = {**env, OTEL_SERVICE_NAME: "web"}
                subprocess.run([sys.executable, "-c", PRODUCER], env=web, check=True, timeout=40, capture_output=True)
            finally:
                worker.terminate()
            logged = worker.communicate(timeout=20)[1].decode()
        headers = rehearsal.calls[0].headers
    by_name = {span.name: span for span in collector.spans}
    assert set(by_name) == {"web request", f"send {namespace}:queue", f"process {namespace}:queue", "chat rehearsal"}
    request, sent = by_name["web request"], by_name[f"send {namespace}:queue"]
    processed, asked = by_name[f"process {namespace}:queue"], by_name["chat rehearsal"]
    assert len({span.trace_id for span in collector.spans}) == 1
    assert [request.parent_id, sent.parent_id, processed.parent_id, asked.parent_id] == [
        "",
        request.span_id,
        sent.span_id,
        processed.span_id,
    ]
    assert (request.service, sent.service, processed.service) == ("web", "web", "tailrace-worker")
    assert headers["traceparent"][:-2] == f"00-{asked.trace_id}-{asked.span_id}-"
    assert "tracestate" not in headers
    lines = [json.loads(line) for line in logged.splitlines()]
    assert any(line.get("trace_id") == asked.trace_id and line["job_id"] == "the-job" for line in lines)
    for canary in (KEY, PROMPT, "Wj8vB3xN", "Zebulon"):
        assert canary not in logged
        assert canary.encode() not in collector.raw


OFF: Final = """
import sys
from tailrace import Tailrace
with Tailrace() as tailrace:
    job = tailrace.submit("hello", job_id="the-job", delay=60)
    assert tailrace.settings
    job.delete()
from tailrace.worker.app import Worker
loaded = sorted(name for name in sys.modules if name.startswith("opentelemetry"))
assert not loaded, loaded
"""


def test_who_does_not_trace_does_not_load_it(server_url: str, namespace: str) -> None:
    env = environment(TAILRACE_REDIS_URL=server_url, TAILRACE_NAMESPACE=namespace)
    done = subprocess.run([sys.executable, "-c", OFF], env=env, capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 0, done.stderr


WITHOUT: Final = """
import sys
sys.modules["opentelemetry"] = None
from tailrace.cli import main
sys.argv = ["tailrace", "worker", "--rehearsal"]
main()
"""


def test_who_asks_for_traces_without_the_extra_is_told_what_to_install(server_url: str, namespace: str) -> None:
    where = {"TAILRACE_REDIS_URL": server_url, "TAILRACE_NAMESPACE": namespace, "OTEL_TRACES_EXPORTER": "otlp"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        env=environment(**where),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "pip install 'tailrace[tracing]'" in done.stderr


@pytest.mark.parametrize(
    ("given", "asked_for"),
    [
        ({}, []),
        ({OTEL_EXPORTER_OTLP_ENDPOINT: "http://x"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, ["otlp"]),
        ({OTEL_EXPORTER_OTLP_ENDPOINT: " "}, []),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ["otlp", "console"]),
        ({"OTEL_TRACES_EXPORTER": "none", OTEL_EXPORTER_OTLP_ENDPOINT: "http://x"}, []),
        ({OTEL_EXPORTER_OTLP_ENDPOINT: "http://x", OTEL_SDK_DISABLED: "True"}, []),
    ],
)
def test_the_standard_environment_says_whether_there_are_traces(given: Mapping[str, str], asked_for: list[str]) -> None:
    assert exporters_asked_for(given) == asked_for


@pytest.mark.parametrize(
    "given",
    [{"OTEL_TRACES_EXPORTER": "pigeon"}, {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}],
)
def test_an_exporter_that_is_not_there_is_named(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    missing: Any = pytest.raises(InvalidRequest, match=r"pigeon|otlp_proto_grpc")
    with missing, traces("x"):
        pass
