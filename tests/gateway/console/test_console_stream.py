"""The console in a browser: one job's stream, live, through cuts and restarts, whatever the text holds."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from gateway_process import free_port, gateway_process
from gateways import Served, served
from pages import Console, expect, opened, text_of
from redis.asyncio import Redis

from engine import engine, wait_until
from tailrace import App, Context
from tailrace.client import AsyncJob

pytestmark = pytest.mark.browser

LONG = "rehearsal:tokens=400,pace=0.01"
ENDLESS = "rehearsal:fault=endless,pace=0.01"
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>",
    "\x1b[31mred\x1b[0m \x07 \x00 \u2028 \u2029 \r\n \r",
    "\u202etxet desrever\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u2066",
    "data: {}\n\nevent: end\ndata: {}\n\n",
    "</pre></div><style>*{display:none}</style>",
    "\U0001f30a" * 50 + "e\u0301" * 50 + "Z" + "\u0335" * 200,
)


async def test_a_stream_is_shown_as_it_comes(real_redis: Redis, namespace: str) -> None:
    async with (
        engine(real_redis, namespace) as running,
        served(running) as gateway,
        opened(gateway.url) as console,
    ):
        job = await running.tailrace.submit("hello", model=LONG, job_id="mine")
        await console.open_job("mine")
        await console.has_text("token3 ")
        assert not (await job.status()).ended
        await console.status("completed")
        assert await console.text() == await job.text()
        figures = await console.page.locator(".figures").inner_text()
        assert "400" in figures
        await expect(console.page.locator("[role=treeitem]")).to_have_attribute("data-state", "done")


async def test_steps_are_a_tree_in_time_and_each_can_be_read(real_redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def research(ctx: Context, topic: str) -> AsyncGenerator[str]:
        plan = await ctx.llm(f"Name two questions about {topic}", name="plan", model="rehearsal:text=PLAN")
        await ctx.gather(
            ctx.llm("first", name="read", model="rehearsal:text=READ"), ctx.llm("second", name="look", model=LONG)
        )
        ctx.emit("noted", {"words": 7})
        yield plan
        async for piece in ctx.llm("write", name="write", model="rehearsal:text=%20and%20more"):
            yield piece

    async with (
        engine(real_redis, namespace, app=app) as running,
        served(running) as gateway,
        opened(gateway.url) as console,
    ):
        steps = console.page.locator("[role=treeitem]")
        job = await running.tailrace.submit(task="research", input="otters", job_id="mine")
        await console.open_job("mine")
        await expect(steps.filter(has_text="look")).to_have_attribute("data-state", "running")
        await console.status("completed")
        assert await steps.locator(".name").all_inner_texts() == ["research", "plan", "read", "look", "write"]
        assert await steps.evaluate_all("all => all.map(each => each.ariaLevel)") == ["1", "2", "2", "2", "2"]
        assert await console.text() == await job.text() == "PLAN and more"
        await expect(console.page.locator(".notes")).to_contain_text('noted {"words":7}')
        bars = await steps.locator(".bar").evaluate_all("all => all.map(each => each.getBoundingClientRect().x)")
        assert bars[0] <= bars[1] < bars[2] <= bars[4]
        await steps.filter(has_text="look").click()
        await console.has_text("token399")
        await steps.filter(has_text="look").focus()
        await console.page.keyboard.press("ArrowUp")
        await expect(console.page.locator("#text")).to_have_text("READ")


async def cut(gateway: Served) -> None:
    """Break all open streams off, as a network that goes away does: Chromium leaves them open when it is set offline."""
    streams = gateway.app.state.gateway.streams
    streams.close()
    await wait_until("the streams are cut", lambda: len(streams) == 0)
    streams.closing = False


async def test_the_network_is_cut_and_comes_back_and_no_letter_is_missing(real_redis: Redis, namespace: str) -> None:
    async with (
        engine(real_redis, namespace) as running,
        served(running) as gateway,
        opened(gateway.url, cuts=True) as console,
    ):
        job = await running.tailrace.submit("hello", model=ENDLESS, job_id="mine")
        await console.open_job("mine")
        for _ in range(2):
            await more(console)
            await console.page.context.set_offline(True)
            await cut(gateway)
            await expect(console.page.locator(".connection")).to_be_visible()
            await expect(console.page.locator("#notice")).to_be_visible()
            await console.page.context.set_offline(False)
            await expect(console.page.locator(".connection")).to_be_hidden()
        await more(console)
        await console.page.context.set_offline(True)
        await cut(gateway)
        await expect(console.page.locator(".connection")).to_be_visible()
        await job.cancel()
        await console.page.context.set_offline(False)
        await console.status("cancelled")
        await wait_until("the page has what the log has", lambda: same(console, job))
        await expect(console.page.locator(".connection")).to_be_hidden()


async def more(console: Console) -> None:
    """Wait until more text has come."""
    length = len(await console.text())

    async def longer() -> bool:
        return len(await console.text()) > length + 100

    await wait_until("more text has come", longer)


async def same(console: Console, job: AsyncJob) -> bool:
    return await console.text() == await text_of(job)


async def test_the_gateway_is_killed_and_started_again_and_no_letter_is_missing(
    real_redis: Redis, namespace: str, server_url: str
) -> None:
    port = free_port()
    async with (
        engine(real_redis, namespace) as running,
        gateway_process(server_url, namespace, port) as first,
        opened(f"http://127.0.0.1:{port}", "/#/jobs/mine", cuts=True) as console,
    ):
        job = await running.tailrace.submit("hello", model=ENDLESS, job_id="mine")
        await console.page.reload()
        await console.has_text()
        first.kill()
        await expect(console.page.locator(".connection")).to_be_visible()
        await expect(console.page.locator("#notice")).to_contain_text("does not answer")
        async with gateway_process(server_url, namespace, port):
            await more(console)
            await job.cancel()
            await console.status("cancelled")
            await wait_until("no letter is missing", lambda: same(console, job))
            await expect(console.page.locator("#notice")).to_be_hidden()


async def test_hostile_text_is_text(real_redis: Redis, namespace: str) -> None:
    chunks = [*HOSTILE, "L" * 1000 * 1000, *HOSTILE]
    evil = "<img src=x onerror=\"document.title='owned'\">\u202e"
    async with (
        engine(real_redis, namespace, worker={"output_bytes": 4_000_000}) as running,
        served(running) as gateway,
        opened(gateway.url) as console,
    ):
        job = await running.tailrace.submit(
            "hello", model=evil, tags=[evil], metadata={evil: evil}, job_id="mine", rehearsal={"chunks": chunks}
        )
        await job.result()
        await console.open_job("mine")
        await console.status("completed")
        await console.has_text("LLL")
        assert await console.text() == await job.text()
        assert len(await job.text()) > 1000 * 1000
        assert await console.page.locator("img, #text script, #text style").count() == 0
        assert "owned" not in (await console.page.title()).replace(evil, "")
        await expect(console.page.locator("h1 bdi")).to_have_text(evil)
        # Text that claims to run from right to left does not carry the page along.
        assert await console.page.evaluate("getComputedStyle(document.body).direction") == "ltr"


async def test_what_a_restarted_attempt_takes_back_is_taken_back(real_redis: Redis, namespace: str) -> None:
    model = "rehearsal:tokens=60,pace=0.01,fault=cut,at=30,times=1,seed_by=call,differ_at=10"
    async with (
        engine(real_redis, namespace) as running,
        served(running) as gateway,
        opened(gateway.url) as console,
    ):
        job = await running.tailrace.submit("hello", model=model, job_id="mine")
        await console.open_job("mine")
        await console.status("completed")
        assert await console.text() == await job.text()
        await expect(console.page.locator(".notes")).to_contain_text("Taken back")
        assert (await job.result()).attempts == 2


async def test_a_reader_who_scrolls_up_is_left_in_peace(real_redis: Redis, namespace: str) -> None:
    async with (
        engine(real_redis, namespace) as running,
        served(running) as gateway,
        opened(gateway.url, height=400) as console,
    ):
        page = console.page
        await running.tailrace.submit("hello", model=ENDLESS, job_id="mine")
        await console.open_job("mine")
        await page.wait_for_function("() => document.getElementById('job').scrollTop > 200")
        await page.locator("#job").hover()
        await page.mouse.wheel(0, -150)
        await expect(page.get_by_role("button", name="Follow")).to_be_visible()
        top: Any = await page.evaluate("document.getElementById('job').scrollTop")
        await more(console)
        assert await page.evaluate("document.getElementById('job').scrollTop") <= top
        await page.get_by_role("button", name="Follow").click()
        await page.wait_for_function("top => document.getElementById('job').scrollTop > top + 100", arg=top)


async def test_thousands_of_tokens_that_are_there_are_shown_in_one_go(real_redis: Redis, namespace: str) -> None:
    """A late reader of a long text: each piece laid out by itself would take minutes."""
    async with (
        engine(real_redis, namespace) as running,
        served(running) as gateway,
        opened(gateway.url) as console,
    ):
        job = await running.tailrace.submit("hello", model="rehearsal:tokens=8000", job_id="mine")
        await job.result()
        await console.open_job("mine")
        await console.has_text("token7999", timeout_s=20)
        assert await console.text() == await job.text()
        blocks: Any = await console.page.evaluate("document.getElementById('text').children.length")
        assert 3 < blocks < 100
