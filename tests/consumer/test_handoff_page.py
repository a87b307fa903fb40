"""docs/handoff.md: the configuration on it is one, and the rights on it are enough and not too much."""

import re
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import pytest
from handoffs import end_job
from redis.asyncio import Redis

from tailrace import AsyncTailrace, BrokerUnsuitable, Settings
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.schemas import Keys

PAGE: Final = (Path(__file__).parents[2] / "docs" / "handoff.md").read_text(encoding="utf-8")


def test_the_configuration_on_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml = re.search(r"^```toml\n(.*?)^```\n", PAGE, re.DOTALL | re.MULTILINE)
    assert toml is not None
    file = tmp_path / "tailrace.toml"
    file.write_text(toml[1])
    monkeypatch.setenv("TAILRACE_CONFIG", str(file))
    billing = Settings.load().webhooks["billing"]
    assert (billing.statuses, billing.tags, billing.allow_private) == (("completed", "incomplete"), ("paid",), False)


async def test_the_rights_on_the_page_are_those_of_a_reader(namespace: str) -> None:
    rule = re.search(r"ACL SETUSER tailrace-handoff reset on >PASSWORD (.*?)```", PAGE, re.DOTALL)
    assert rule is not None
    rights = rule[1].replace("\\", " ").replace("tailrace:", f"{namespace}:").split()
    keys = Keys(namespace)
    with EmbeddedServer(private=True) as server:
        admin: Any = Redis.from_url(server.tcp_url)  # pyright: ignore[reportUnknownMemberType]  # redis-py's **kwargs
        async with admin:
            await admin.execute_command("ACL", "SETUSER", "reader", "reset", "on", ">pw", *rights)
            await end_job(admin, keys, "job")
            url = f"redis://reader:pw@{server.tcp_url.rpartition('@')[2]}"
            async with AsyncTailrace(url, namespace=namespace) as tailrace:
                async with aclosing(tailrace.ended("g")) as ends:
                    ended = await anext(ends)
                    assert (await ended.result()).text == "some text"
                    assert await ended.hold()
                    await ended.park("why")
                    assert len(await tailrace.parked("g")) == await tailrace.unpark("g") == 1
                    await (await anext(ends)).ack()
                with pytest.raises(BrokerUnsuitable):
                    await tailrace.broker.call("GET", keys.request("job"))
                with pytest.raises(BrokerUnsuitable):
                    await tailrace.job("job").delete()
