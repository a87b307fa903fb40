"""The site: built without a warning and without the network, whole, and loading nothing from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from documentation import PAGES, ROOT

pytest.importorskip("mkdocs", reason="the site's packages are not installed (group docs)")

#: What a browser fetches by itself; a link that a reader may follow is none of these.
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
}
NAMES = re.compile(r"url\(\s*['\"]?(https?:)?//|@import\s+['\"]?(https?:)?//")
#: The theme's own: these are asked for only by features of it that are off (its repository card, its diagrams).
NEVER = ("https://api.github.com", "https://gitlab.com", "https://unpkg.com/mermaid", "https://unpkg.com/iframe-worker")
#: Proxies that lead nowhere: whoever asks for the network fails.
OFFLINE = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        env={**os.environ, **OFFLINE, "NO_MKDOCS_2_WARNING": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    # Not --quiet: it keeps warnings from being counted, and --strict lets them pass.
    warnings = [line for line in built.stderr.splitlines() if not line.startswith("INFO")]
    assert (built.returncode, built.stdout, warnings) == (0, "", []), built.stderr
    return folder


class Parsed(HTMLParser):
    """What a page loads, where it leads, and what can be led to in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag in LOADED and LOADED[tag] in values:
            self.loads.append(values[LOADED[tag]])
        if tag == "link" and values.get("rel") not in {"canonical", "alternate", "prev", "next"}:
            self.loads.append(values["href"])
        if tag == "a" and "href" in values:
            self.leads.append(values["href"])


@pytest.mark.timeout(240)
def test_every_page_is_there_in_both_languages(site: Path) -> None:
    for page in PAGES:
        name = "" if page.name == "README.md" else page.stem
        for language in ("", "zh"):
            assert (site / language / name / "index.html").exists(), (language, name)
    assert 'lang="zh"' in (site / "zh" / "tutorial" / "index.html").read_text(encoding="utf-8")
    assert "后台作业" in (site / "zh" / "tutorial" / "index.html").read_text(encoding="utf-8")
    assert "后台作业" in (site / "zh" / "index.html").read_text(encoding="utf-8")


@pytest.mark.timeout(240)
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        foreign = [url for url in Parsed(page).loads if urlsplit(url).netloc or url.startswith("//")]
        assert foreign == [], page.relative_to(site)
    for sheet in site.rglob("*.css"):
        assert not NAMES.search(sheet.read_text(encoding="utf-8")), sheet.relative_to(site)
    for script in site.rglob("*.js"):
        loaded = re.findall(r"[\"'`](https?://[\w.-]+/[\w@./-]*)", script.read_text(encoding="utf-8"))
        assert [url for url in loaded if url.endswith((".js", ".css", ".woff2")) and not url.startswith(NEVER)] == []


@pytest.mark.timeout(240)
def test_every_link_within_the_site_leads_to_a_page_and_a_place_in_it(site: Path) -> None:
    pages = {page: Parsed(page) for page in site.rglob("*.html") if page.name != "404.html"}
    for page, parsed in pages.items():
        for link in parsed.leads:
            split = urlsplit(link)
            if split.scheme or split.netloc:
                continue
            target = page if not split.path else Path(os.path.normpath(page.parent / unquote(split.path)))
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{page.relative_to(site)}: {link}"
            if split.fragment and target in pages:
                assert unquote(split.fragment) in pages[target].anchors | {"__tabbed"}, (
                    f"{page.relative_to(site)}: {link}"
                )


@pytest.mark.timeout(240)
def test_what_is_generated_is_in_its_page(site: Path) -> None:
    for page, some in {
        "http": ["POST /v1/jobs", "starting_after", "shape-jobtosubmit"],
        "cli": ["tailrace submit", "--max-attempts", "Exit codes"],
        "configuration": ["stall_timeout_s", "TAILRACE_QUEUE_CAPACITY", "[gateway.tenants.&lt;name&gt;]"],
        "python": ["stream_events", "tailrace.Job.cancel", "tailrace.langchain.ChatTailrace"],
    }.items():
        text = (site / page / "index.html").read_text(encoding="utf-8")
        for each in some:
            assert each in text, (page, each)
        assert "<!-- reference" not in text
    assert '<svg role="img"' in (site / "architecture" / "index.html").read_text(encoding="utf-8")
