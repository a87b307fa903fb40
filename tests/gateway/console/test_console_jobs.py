"""The console in a browser: jobs come and go, are found, opened, cancelled, by mouse and by key."""

from typing import Any

import pytest
from gateways import served
from pages import expect, opened, text_of
from redis.asyncio import Redis

from engine import engine, wait_until

pytestmark = pytest.mark.browser

ENDLESS = "rehearsal:fault=endless,pace=0.01"
SECRET = "the prompt that nobody else may read"


async def test_jobs_appear_run_and_end_before_ones_eyes(real_redis: Redis, namespace: str) -> None:
    async with (
        engine(real_redis, namespace) as running,
        served(running) as gateway,
        opened(gateway.url) as console,
    ):
        rows = console.page.locator("#jobs li")
        await expect(console.page.locator("#none")).to_be_visible()
        job = await running.tailrace.submit(SECRET, model=ENDLESS, tags=["song"], job_id="mine")
        await running.tailrace.submit(SECRET, model="rehearsal", delay=600, job_id="later")
        row = rows.filter(has_text="mine")
        await expect(row.locator(".status")).to_have_text("running")
        await expect(row).to_contain_text("song")
        await expect(row.locator(".speed")).to_contain_text("tok/s")
        await expect(rows.filter(has_text="later").locator(".status")).to_have_text("queued")
        await expect(console.page.locator("#gauge")).to_contain_text("1 running")
        await job.cancel()
        await expect(row.locator(".status")).to_have_text("cancelled")
        await expect(row).to_contain_text("took")
        await console.page.reload()
        await expect(row.locator(".status")).to_have_text("cancelled")
        assert SECRET not in await console.page.content()
        assert all(url.startswith(gateway.url) for url in console.asked)


async def test_a_job_that_began_and_ended_between_two_looks_is_shown(real_redis: Redis, namespace: str) -> None:
    async with (
        engine(real_redis, namespace) as running,
        served(running) as gateway,
        opened(gateway.url) as console,
    ):
        page = console.page
        await page.clock.install()
        await page.reload()
        await expect(page.locator("#none")).to_be_visible()
        await (await running.tailrace.submit(SECRET, tags=["song"], job_id="quick")).result()

        async def handed_off() -> bool:
            return not await running.tailrace.broker.call("ZCARD", running.settings.keys.open)

        await wait_until("it is handed off", handed_off)
        await page.clock.run_for(10_000)
        row = page.locator("#jobs li").filter(has_text="quick")
        await expect(row.locator(".status")).to_have_text("completed")
        await expect(row).to_contain_text("song")
        await expect(row).to_contain_text("took")
        assert not any("/v1/jobs/quick" in url for url in console.asked)


async def test_a_search_narrows_the_list_and_opens_a_job_by_its_id(real_redis: Redis, namespace: str) -> None:
    async with (
        engine(real_redis, namespace, with_worker=False) as running,
        served(running) as gateway,
        opened(gateway.url) as console,
    ):
        page = console.page
        await running.tailrace.submit("a", tags=["red"], job_id="first")
        await running.tailrace.submit("b", metadata={"user": "u-7"}, job_id="second")
        await expect(page.locator("#jobs li")).to_have_count(2)
        await page.keyboard.press("/")
        await page.keyboard.type("U-7")
        await expect(page.locator("#jobs li")).to_have_count(1)
        await expect(page.locator("#jobs li")).to_contain_text("second")
        await page.keyboard.press("Escape")
        await expect(page.locator("#jobs li")).to_have_count(2)
        await page.get_by_role("button", name="Running").click()
        await expect(page.locator("#jobs li")).to_have_count(0)
        await expect(page.locator("#none")).to_contain_text("running")
        await page.locator("#search").fill("first")
        await page.keyboard.press("Enter")
        await console.status("queued")
        await expect(page.locator("article.job code")).to_have_text("first")


async def test_the_whole_page_can_be_used_by_keyboard(real_redis: Redis, namespace: str) -> None:
    async with (
        engine(real_redis, namespace) as running,
        served(running) as gateway,
        opened(gateway.url) as console,
    ):
        page, keys = console.page, console.page.keyboard
        for number in range(3):
            await running.tailrace.submit("hello", model=ENDLESS, job_id=f"job-{number}")
            await expect(page.locator("#jobs li")).to_have_count(number + 1)

        async def focused() -> Any:
            return await page.evaluate("document.activeElement.dataset.job")

        await keys.press("j")
        assert await focused() == "job-2"
        await keys.press("j")
        await keys.press("j")
        await keys.press("j")
        assert await focused() == "job-0"
        await keys.press("k")
        assert await focused() == "job-1"
        await keys.press("Enter")
        await console.status("running")
        await keys.press("?")
        await expect(page.locator("#show-help")).to_be_visible()
        await keys.press("c")
        await expect(page.locator("#ask-cancel")).not_to_be_visible()
        await keys.press("Escape")
        await expect(page.locator("#show-help")).not_to_be_visible()
        await keys.press("c")
        await expect(page.locator("#ask-cancel")).to_contain_text("job-1")
        assert await page.evaluate("document.activeElement.id") == "cancel-no"
        await keys.press("Escape")
        await expect(page.locator("#ask-cancel")).not_to_be_visible()
        assert not (await running.tailrace.job("job-1").status()).ended
        await keys.press("c")
        await keys.press("Tab")
        await keys.press("Enter")
        await console.status("cancelled")
        assert await running.tailrace.job("job-1").status() == "cancelled"
        await keys.press("Escape")
        await expect(page.locator("article.job")).to_have_count(0)
        assert await focused() == "job-1"
        await expect(page.locator("#said")).not_to_be_empty()


async def test_a_job_is_cancelled_by_its_button_after_a_question(real_redis: Redis, namespace: str) -> None:
    async with (
        engine(real_redis, namespace) as running,
        served(running) as gateway,
        opened(gateway.url) as console,
    ):
        job = await running.tailrace.submit("hello", model=ENDLESS, job_id="mine")
        await console.open_job("mine")
        await console.has_text()
        await console.page.get_by_role("button", name="Cancel", exact=True).click()
        await console.page.get_by_role("button", name="Let it run").click()
        assert not (await job.status()).ended
        await console.page.get_by_role("button", name="Cancel", exact=True).click()
        await console.page.get_by_role("button", name="Cancel the job").click()
        await console.status("cancelled")
        assert await job.status() == "cancelled"
        await wait_until("the call is over", lambda: running.rehearsal.open_streams == 0)
        await expect(console.page.get_by_role("button", name="Cancel", exact=True)).to_be_hidden()
        assert await console.text() == await text_of(job)


async def test_a_job_that_is_not_there_is_said_to_be_so(real_redis: Redis, namespace: str) -> None:
    async with (
        engine(real_redis, namespace, with_worker=False) as running,
        served(running) as gateway,
        opened(gateway.url, "/#/jobs/nobody", cuts=True) as console,
    ):
        await expect(console.page.get_by_role("heading", name="Not here")).to_be_visible()


async def test_a_tab_that_nobody_looks_at_asks_for_nothing(real_redis: Redis, namespace: str) -> None:
    async with (
        engine(real_redis, namespace, with_worker=False) as running,
        served(running) as gateway,
        opened(gateway.url) as console,
    ):

        def listings() -> int:
            return sum("/v1/jobs?" in url for url in console.asked)

        hide = """hidden => {
            Object.defineProperty(document, "hidden", { get: () => hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
        await console.page.clock.install()
        await console.page.reload()
        before = listings()
        await console.page.clock.run_for(10_000)
        await wait_until("it asks again and again", lambda: listings() >= before + 2)
        await console.page.evaluate(hide, True)
        # One that was under way may just have been answered.
        await console.page.clock.run_for(5_000)
        before = listings()
        await console.page.clock.run_for(60_000)
        assert listings() == before
        await console.page.evaluate(hide, False)
        await wait_until("it asks at once", lambda: listings() > before)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_is_as_dark_as_the_system_until_somebody_chooses(
    real_redis: Redis, namespace: str, scheme: Any
) -> None:
    async with (
        engine(real_redis, namespace, with_worker=False) as running,
        served(running) as gateway,
        opened(gateway.url, color_scheme=scheme) as console,
    ):

        async def is_dark() -> bool:
            colour: Any = await console.page.evaluate("getComputedStyle(document.body).backgroundColor")
            return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")) < 3 * 80

        assert await is_dark() == (scheme == "dark")
        await console.page.get_by_role("button", name="Dark or light").click()
        assert await is_dark() == (scheme == "light")
        await console.page.reload()
        assert await is_dark() == (scheme == "light")


async def test_nothing_is_wider_than_a_phone(real_redis: Redis, namespace: str) -> None:
    wide = "rehearsal:text=" + "W" * 3000
    async with (
        engine(real_redis, namespace) as running,
        served(running) as gateway,
        opened(gateway.url, width=360, height=640, has_touch=True, is_mobile=True) as console,
    ):
        page = console.page
        job = await running.tailrace.submit(
            "hello", model=wide, tags=["t" * 300, *"abcdef"], metadata={"m" * 200: "n" * 900}, job_id="x" * 128
        )
        await running.tailrace.submit("hello", model=ENDLESS, job_id="mine")
        await expect(page.locator("#jobs li").filter(has_text="mine")).to_be_visible()
        assert await console.width() == 360
        await page.locator("#jobs li").filter(has_text="mine").tap()
        await console.has_text()
        await expect(page.locator("#jobs")).not_to_be_visible()
        assert await console.width() == 360
        await page.get_by_role("link", name="All jobs", exact=False).last.tap()
        await expect(page.locator("#jobs")).to_be_visible()
        await job.result()
        await console.open_job("x" * 128)
        await console.status("completed")
        await console.has_text("WWW")
        assert await console.width() == 360


#: The texts of a page that stand out too little from what is behind them (WCAG 2.2, 1.4.3), and buttons without a name.
UNREADABLE = """() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, below) => top.slice(0, 3).map((value, at) => value * top[3] + below[at] * (1 - top[3])).concat(1);
    const behind = (element) => {
        if (element === null) return [255, 255, 255, 1];
        const own = rgba(getComputedStyle(element).backgroundColor);
        return own[3] === 1 ? own : over(own, behind(element.parentElement));
    };
    const light = (colour) => {
        const part = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
        return 0.2126 * part(colour[0]) + 0.7152 * part(colour[1]) + 0.0722 * part(colour[2]);
    };
    const found = [];
    for (const element of document.body.querySelectorAll("*")) {
        if (element.matches("button, a, input") && element.checkVisibility()) {
            const name = element.ariaLabel || element.textContent.trim() || element.labels?.[0]?.textContent.trim();
            if (!name) found.push(`no name: ${element.outerHTML.slice(0, 80)}`);
        }
        const says = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== "");
        if (!says || !element.checkVisibility({ visibilityProperty: true }) || element.closest(".unseen, noscript")) continue;
        const ground = behind(element);
        const ink = over(rgba(getComputedStyle(element).color), ground);
        const [low, high] = [light(ink), light(ground)].sort((a, b) => a - b);
        const ratio = (high + 0.05) / (low + 0.05);
        if (ratio < 4.5) found.push(`${ratio.toFixed(2)}: ${element.className} ${element.textContent.slice(0, 40)}`);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_stands_out_and_every_button_has_a_name(
    real_redis: Redis, namespace: str, scheme: Any
) -> None:
    async with (
        engine(real_redis, namespace) as running,
        served(running) as gateway,
        opened(gateway.url, color_scheme=scheme) as console,
    ):
        await running.tailrace.submit("hello", model=ENDLESS, tags=["song"], job_id="mine", metadata={"user": 7})
        await running.tailrace.submit("hello", delay=600, job_id="later")
        await running.tailrace.submit("hello", model="rehearsal:fault=status,code=401", job_id="broken")
        gone = await running.tailrace.submit("hello", model=ENDLESS, job_id="gone")
        await console.open_job("gone")
        await console.status("running")
        await gone.cancel()
        await console.status("cancelled")
        await console.open_job("broken")
        await console.status("failed")
        await expect(console.page.locator(".error")).to_be_visible()
        await expect(console.page.locator("#jobs li")).to_have_count(4)
        assert await console.page.evaluate(UNREADABLE) == []
        await console.open_job("mine")
        await console.has_text()
        assert await console.page.evaluate(UNREADABLE) == []
        await console.page.keyboard.press("c")
        assert await console.page.evaluate(UNREADABLE) == []
        await console.page.keyboard.press("Escape")
        for landmark in ("banner", "main", "log", "tree"):
            await expect(console.page.get_by_role(landmark)).to_have_count(1)
