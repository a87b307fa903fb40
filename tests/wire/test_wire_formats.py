"""Publications and snapshots, read by the Node example and the redis-cli scripts as Python reads them."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from wire_clients import NO_PUBLICATIONS, REDIS_CLI, ROOT, node, plain_environment, redis_cli

from job_logs import archived, submitted
from tailrace.joblog import parse_publication
from tailrace.joblog.embedded import EmbeddedServer

GOLDEN = ROOT / "tests" / "schemas" / "golden" / "wire-v1"


def run_node(program: str, folder: Path, *arguments: str) -> Any:
    """The JSON that a program beside the Node example prints."""
    command = ["node", "--input-type=module", "--eval", program, *arguments]
    return json.loads(subprocess.run(command, cwd=folder / "examples" / "node", capture_output=True, check=True).stdout)


def test_node_tells_a_publication_from_what_is_none(node_packages: Path, tmp_path: Path) -> None:
    node(node_packages, tmp_path, {})
    program = """
        import { parsePublication } from "./wire.js";
        const messages = process.argv.slice(1).map((message) => Buffer.from(message, "hex"));
        console.log(JSON.stringify(messages.map(parsePublication)));
    """
    text = "ü💧\n 7-8 chunk 1\n"
    good = f"5-1\n5-2 chunk {len(text.encode())}\n{text}\n5-3 chunk:2 0\n\n".encode()
    *none, read = run_node(program, tmp_path, *(message.hex() for message in [*NO_PUBLICATIONS, good]))
    assert none == [None] * len(NO_PUBLICATIONS)
    expected = parse_publication(good)
    assert expected is not None
    assert read == {"after": expected.after, "records": [entry._asdict() for entry in expected.entries]}


class TestTheGoldenLog:
    """The log and the snapshot of wire version 1 that never change."""

    RECORDS = json.loads((GOLDEN / "log.json").read_text(encoding="utf-8"))

    def test_node_reads_the_snapshot(self, node_packages: Path, tmp_path: Path) -> None:
        node(node_packages, tmp_path, {})
        program = """
            import { readFileSync } from "node:fs";
            import { decodeSnapshot, Log } from "./wire.js";
            const records = decodeSnapshot(readFileSync(process.argv[1]));
            const whole = new Log().append(records);
            console.log(JSON.stringify([whole, records.map(({ position, field, value }) => [position, field, value])]));
        """
        assert run_node(program, tmp_path, str(GOLDEN / "snapshot.bin")) == [True, self.RECORDS]

    async def test_the_scripts_read_the_snapshot(
        self, real_redis: Redis, namespace: str, server: EmbeddedServer, tmp_path: Path
    ) -> None:
        here = {"TAILRACE_REDIS_URL": server.tcp_url, "TAILRACE_NAMESPACE": namespace}
        reader = redis_cli(plain_environment() | here)
        job = await submitted(real_redis, namespace)
        await archived(job)
        redis: Any = real_redis
        await redis.set(job.keys.snapshot(job.job_id), (GOLDEN / "snapshot.bin").read_bytes(), px=60_000)
        command = f"source {REDIS_CLI}/common.sh; read_log {job.job_id} {tmp_path}/log"
        process = await asyncio.create_subprocess_exec("bash", "-c", command, env=reader.environment)
        assert await process.wait() == 0
        records = json.loads((tmp_path / "log").read_text(encoding="utf-8"))
        assert [[position, *record] for position, record in records] == self.RECORDS
