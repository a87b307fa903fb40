"""The console in a real browser: Chromium with an empty profile, and nothing that talks to anybody but the gateway."""

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from tailrace.client import AsyncJob
from tailrace.schemas import JobCancelled

CHROMIUM: Final = shutil.which("chromium")
playwright = pytest.importorskip("playwright.async_api")
if CHROMIUM is None:
    pytest.skip("chromium is not installed", allow_module_level=True)

from playwright.async_api import Page, async_playwright, expect  # noqa: E402  # skipped above where it is missing

__all__ = ["Console", "expect", "opened", "text_of"]

_ARGUMENTS: Final = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: What a browser says of every request that fails, also of those that a test makes fail.
_CUT: Final = ("Failed to load resource: net::ERR_", "the server responded with a status of 4")
_WATCH: Final = """
addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
addEventListener("unhandledrejection", (event) => console.error(`rejection: ${event.reason}`));
"""


@dataclass
class Console:
    """A page with the console."""

    page: Page
    url: str
    problems: list[str] = field(default_factory=list[str])
    asked: list[str] = field(default_factory=list[str])
    """Every address that the page has asked for."""

    async def open_job(self, job_id: str) -> None:
        await self.page.goto(f"{self.url}/#/jobs/{job_id}")

    async def text(self) -> str:
        """The output as the page holds it."""
        found: Any = await self.page.evaluate("document.getElementById('text')?.textContent ?? ''")
        return str(found)

    async def status(self, expected: str, timeout_s: float = 10) -> None:
        """Wait until the open job is shown so."""
        await expect(self.page.locator("article.job .badge")).to_have_text(expected, timeout=timeout_s * 1000)

    async def has_text(self, part: str = "", timeout_s: float = 10) -> None:
        """Wait until there is text, with `part` in it."""
        await self.page.wait_for_function(
            """part => {
                const text = document.getElementById("text")?.textContent ?? "";
                return text !== "" && text.includes(part);
            }""",
            arg=part,
            timeout=timeout_s * 1000,
        )

    async def width(self) -> int:
        """Of all that is on the page, in pixels. A phone's window grows with what is too wide for it."""
        found: Any = await self.page.evaluate(
            "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
        )
        return int(found)


async def text_of(job: AsyncJob) -> str:
    """What stands in the log, however the job has ended."""
    try:
        return await job.text()
    except JobCancelled as cancelled:
        return cancelled.result.text if cancelled.result is not None else ""


@asynccontextmanager
async def opened(
    url: str, path: str = "/", *, cuts: bool = False, width: int = 1280, height: int = 820, **context: Any
) -> AsyncGenerator[Console]:
    """The console in a browser of its own. Fails a test in which the page complains: `cuts` allows for failed requests."""
    async with async_playwright() as player:
        browser = await player.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            pages = await browser.new_context(viewport={"width": width, "height": height}, **context)
            page = await pages.new_page()
            console = Console(page, url)
            await page.add_init_script(_WATCH)
            page.on(
                "console",
                lambda said: console.problems.append(said.text) if said.type in ("error", "warning") else None,
            )
            page.on("pageerror", lambda error: console.problems.append(str(error)))
            page.on("request", lambda request: console.asked.append(request.url))
            await page.goto(url + path)
            yield console
            assert [each for each in console.problems if not (cuts and any(cut in each for cut in _CUT))] == []
        finally:
            await browser.close()
