"""`rediss://`: the whole path over TLS, and what is not trusted is refused. Needs a server that has TLS, and openssl."""

import asyncio
import json
import logging
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as BlockingRedis
from redis.exceptions import ConnectionError as RedisConnectionError
from typer.testing import CliRunner

from engine import wait_until
from tailrace import AsyncTailrace, BrokerUnsuitable, Settings, Status
from tailrace.cli import app
from tailrace.joblog import connected, translated
from tailrace.joblog.wire import pack
from tailrace.upstreams.rehearsal import Rehearsal
from tailrace.worker.app import Worker
from tls_certificates import certificates

PATIENCE_S = 10.0


@dataclass(frozen=True)
class Tls:
    """A server whose certificate is for `localhost` and for no address."""

    port: int
    authority: Path
    another: Path

    def url(self, host: str = "localhost", authority: Path | None = None, more: str = "") -> str:
        where = f"rediss://:tls-password@{host}:{self.port}/0"
        return f"{where}?ssl_ca_certs={authority or self.authority}{more}"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    binary = next(filter(None, map(shutil.which, ("redis-server", "valkey-server"))), None)
    if binary is None:
        pytest.skip("needs redis-server or valkey-server on PATH")
    folder = tmp_path_factory.mktemp("tls")
    made = certificates(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    options = {
        "port": "0", "tls-port": str(port), "bind": "127.0.0.1", "dir": str(folder), "requirepass": "tls-password",
        "tls-cert-file": str(folder / "server.pem"), "tls-key-file": str(folder / "server.key"),
        "tls-ca-cert-file": str(made.authority), "tls-auth-clients": "no", "save": "", "logfile": str(folder / "log"),
    }  # fmt: skip
    command = [binary, *(word for name, value in options.items() for word in (f"--{name}", value))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            tls = Tls(port, made.authority, made.another)
            if not answers(tls, server):
                pytest.skip(f"{binary} does not start with TLS: {(folder / 'log').read_text()[-500:]}")
            yield tls
        finally:
            server.kill()


def answers(tls: Tls, server: "subprocess.Popen[bytes]") -> bool:
    while server.poll() is None:
        client: Any = BlockingRedis.from_url(tls.url())  # pyright: ignore[reportUnknownMemberType]  # its **kwargs
        try:
            client.ping()
        except RedisConnectionError as error:  # not yet: pytest's own timeout is the limit
            if "certificate" in str(error):
                raise
            continue
        finally:
            client.close()
        return True
    return False


async def test_worker_renewal_hub_and_pipe_all_speak_tls(
    tls: Tls, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with Rehearsal() as rehearsal:
        settings = Settings.model_validate(
            {
                "redis_url": tls.url(),
                "namespace": namespace,
                "upstreams": {"default": {"base_url": rehearsal.base_url, "api_key_env": ""}},
                "worker": {"lease_s": 0.3},
            }
        )
        async with AsyncTailrace(settings=settings) as tailrace, Worker(settings) as worker:
            running = asyncio.create_task(worker.run())
            # Longer than four leases: without renewal the job would be lost.
            job = await tailrace.submit("hello", model="rehearsal:tokens=60,pace=0.02")
            chunks = [chunk async for chunk in job.stream()]
            end = (await tailrace.consumer.look(job.id)).end or {}
            await worker.drain(0)
            await running
    assert len(chunks) == 60
    assert (end["status"], end["attempts"]) == ("completed", 1)
    assert [record.getMessage() for record in caplog.records if "lease" in record.getMessage()] == []


@pytest.mark.parametrize(
    ("host", "own", "told"), [("localhost", False, "self.signed|issuer"), ("127.0.0.1", True, "match")]
)
async def test_a_certificate_that_is_not_trusted_is_refused_with_the_reason(
    tls: Tls, namespace: str, host: str, own: bool, told: str
) -> None:
    url = tls.url(host, tls.authority if own else tls.another)
    async with AsyncTailrace(settings=Settings(redis_url=url, namespace=namespace)) as tailrace:
        with pytest.raises(BrokerUnsuitable, match=told) as caught:
            await tailrace.submit("hello")
        assert "ssl_ca_certs" in caught.value.cure
        with pytest.raises(BrokerUnsuitable, match=told):
            await tailrace.job("j").status()
        with pytest.raises(BrokerUnsuitable, match=told):
            await tailrace.job("j").text(timeout=PATIENCE_S)
    async with connected(url) as broker:
        pipe = broker.pipe()
        with pytest.raises(BrokerUnsuitable, match=told), translated():
            await pipe.ask([pack(["PING"])])
        await pipe.close()
    for command in (["worker", "--rehearsal"], ["doctor", "--no-upstreams"], ["submit", "hello"]):
        ran = await asyncio.to_thread(CliRunner().invoke, app, [*command, "--redis-url", url, "--json"])
        assert ran.exit_code == 4, ran.output
        said = ran.stdout if command[0] == "doctor" else ran.stderr
        assert "certificate" in said
        assert "tls-password" not in ran.output


async def test_the_name_is_checked_whatever_the_version_of_redis_py_does_by_itself(tls: Tls) -> None:
    async with connected(tls.url("127.0.0.1", more="&ssl_check_hostname=false")) as broker:
        assert await broker.call("PING")  # who asks for it gets it
    async with connected(tls.url("127.0.0.1")) as broker:
        with pytest.raises(BrokerUnsuitable, match="match"):
            await broker.call("PING")


async def test_tls_without_any_check_has_to_be_asked_for(tls: Tls) -> None:
    async with connected(f"rediss://:tls-password@127.0.0.1:{tls.port}/0?ssl_cert_reqs=none") as broker:
        assert await broker.call("PING")
    async with connected(f"rediss://:tls-password@localhost:{tls.port}/0") as broker:
        with pytest.raises(BrokerUnsuitable, match="certificate"):
            await broker.call("PING")


async def test_a_job_can_be_read_over_tls_by_the_commands(tls: Tls, namespace: str) -> None:
    async with AsyncTailrace(settings=Settings(redis_url=tls.url(), namespace=namespace)) as tailrace:
        job = await tailrace.submit("hello")
        await job.cancel()

        async def cancelled() -> bool:
            return await job.status() is Status.CANCELLED

        await wait_until("it is cancelled", cancelled)
    where = ["--redis-url", tls.url(), "--namespace", namespace]
    ran = await asyncio.to_thread(CliRunner().invoke, app, ["status", job.id, "--json", *where])
    assert json.loads(ran.stdout)["status"] == "cancelled"
