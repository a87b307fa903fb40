"""The console in a browser, in front of a gateway with keys."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from gateways import Served, served
from pages import Console, expect, opened, text_of
from redis.asyncio import Redis

from engine import engine
from tailrace.gateway.access import hash_key, new_key
from tailrace.schemas.sections import TenantSettings

ENDLESS = "rehearsal:fault=endless,pace=0.01"
KEY, ANOTHER = new_key(), new_key()

pytestmark = pytest.mark.browser


@asynccontextmanager
async def keyed(redis: Redis, namespace: str) -> AsyncGenerator[Served]:
    """A gateway with two tenants, and a running job of each."""
    tenants = {
        "acme": TenantSettings(key_hashes=(hash_key(KEY),)),
        "other": TenantSettings(key_hashes=(hash_key(ANOTHER),)),
    }
    async with engine(redis, namespace) as running, served(running, tenants=tenants) as gateway:
        for job_id, key in (("mine", KEY), ("theirs", ANOTHER)):
            asked = {"prompt": "hello", "job_id": job_id, "model": ENDLESS}
            made = await gateway.http.post("/v1/jobs", json=asked, headers={"Authorization": f"Bearer {key}"})
            assert made.status_code == 201
        yield gateway


async def use(console: Console, key: str) -> None:
    await expect(console.page.locator("#ask-key")).to_be_visible()
    await console.page.get_by_label("API key", exact=False).last.fill(key)
    await console.page.keyboard.press("Enter")


async def test_a_key_is_asked_for_and_shows_its_tenants_jobs_only(real_redis: Redis, namespace: str) -> None:
    async with keyed(real_redis, namespace) as gateway, opened(gateway.url, cuts=True) as console:
        page = console.page
        await use(console, "tr-wrong")
        await expect(page.locator("#key-problem")).to_be_visible()
        await use(console, KEY)
        await expect(page.locator("#jobs li")).to_have_count(1)
        await expect(page.locator("#jobs")).to_contain_text("mine")
        await console.open_job("mine")
        await console.has_text()
        await page.keyboard.press("c")
        await page.get_by_role("button", name="Cancel the job").click()
        await console.status("cancelled")
        assert await console.text() == await text_of(gateway.engine.tailrace.job("mine"))
        await page.reload()
        await console.status("cancelled")
        await console.open_job("theirs")
        await expect(page.get_by_role("heading", name="Not here")).to_be_visible()


async def test_the_key_stays_in_the_tab_and_streams_are_opened_with_a_token_of_one_job(
    real_redis: Redis, namespace: str
) -> None:
    async with keyed(real_redis, namespace) as gateway, opened(gateway.url, "/#/jobs/mine", cuts=True) as console:
        await use(console, KEY)
        await console.open_job("mine")
        await console.has_text()
        assert not [url for url in console.asked if KEY in url]
        streams = [url for url in console.asked if re.search(r"/events\?", url)]
        assert streams
        assert all("token" in parse_qs(urlsplit(url).query) for url in streams)
        kept: Any = await console.page.evaluate("[JSON.stringify(localStorage), document.cookie]")
        assert kept == ["{}", ""]
        another = await console.page.context.new_page()
        await another.goto(gateway.url)
        await expect(another.locator("#ask-key")).to_be_visible()
        await another.close()
        await console.page.get_by_role("button", name="Change the API key").click()
        await console.page.get_by_role("button", name="Forget the key").click()
        await expect(console.page.locator("#ask-key")).to_be_visible()
        await expect(console.page.locator("#jobs li")).to_have_count(0)
        assert KEY not in str(await console.page.evaluate("JSON.stringify(sessionStorage)"))
