"""What the console is made of, and how it is sent."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
from gateways import served
from redis.asyncio import Redis

from engine import engine
from tailrace.gateway import console

STATIC: Final = Path(console.__file__).parent / "static"
FILES: Final = sorted(path.name for path in STATIC.iterdir())
SCRIPTS: Final = sorted(STATIC.glob("*.js"))
HERE: Final = Path(__file__).parent
WAYS: Final = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|setHTML|srcdoc"
    r"|\beval\b|new Function|document\.cookie"
)


async def test_the_page_and_its_files_are_sent_with_headers_that_trust_nobody(
    real_redis: Redis, namespace: str
) -> None:
    async with engine(real_redis, namespace, with_worker=False) as running, served(running) as gateway:
        kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
        for name in FILES:
            path = "/" if name == "index.html" else f"/console/{name}"
            answer = await gateway.http.get(path)
            assert answer.status_code == 200
            assert answer.content == (STATIC / name).read_bytes()
            assert answer.headers["content-type"].startswith(kinds[Path(name).suffix])
            policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
            assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert policy["require-trusted-types-for"] == "'script'"
            assert policy["trusted-types"] == "'none'"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "set-cookie" not in answer.headers


async def test_a_browser_that_has_a_file_is_told_so(real_redis: Redis, namespace: str) -> None:
    async with engine(real_redis, namespace, with_worker=False) as running, served(running) as gateway:
        first = await gateway.http.get("/")
        again = await gateway.http.get("/", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
        assert (await gateway.http.get("/", headers={"If-None-Match": '"another"'})).status_code == 200
        assert (await gateway.http.head("/")).status_code == 200


@pytest.mark.parametrize(
    "path", ["index.html", "router.py", "../router.py", "%2e%2e%2frouter.py", "..%2f..%2fapp.py", "", "a/b"]
)
async def test_nothing_else_is_sent(real_redis: Redis, namespace: str, path: str) -> None:
    async with engine(real_redis, namespace, with_worker=False) as running, served(running) as gateway:
        assert (await gateway.http.get(f"/console/{path}")).status_code == 404


async def test_the_api_document_does_not_speak_of_the_page(real_redis: Redis, namespace: str) -> None:
    async with engine(real_redis, namespace, with_worker=False) as running, served(running) as gateway:
        paths = (await gateway.http.get("/openapi.json")).json()["paths"]
        assert "/v1/jobs" in paths
        assert not [path for path in paths if path == "/" or path.startswith("/console")]


def test_the_page_has_no_script_style_or_source_but_its_own() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<script(?![^>]*\bsrc=)", page)
    assert not re.findall(r"<style|\sstyle=|\son\w+=|javascript:", page)
    sources = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert {source.removeprefix("console/") for source in sources if not source.startswith("#")} <= set(FILES)
    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, f"{file.name} names another place"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_can_make_markup_or_code_of_a_text(path: Path) -> None:
    code = path.read_text(encoding="utf-8")
    assert not WAYS.findall(code)
    assert len(code.splitlines()) < 400


def test_the_key_is_kept_in_the_tab_only() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    assert set(re.findall(r"localStorage\W+(.*)", code)) == {
        'getItem("tailrace.theme");',
        'setItem("tailrace.theme", root.dataset.theme);',
    }


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_arithmetic_of_the_page_is_right() -> None:
    """`node --test`: positions, the tree of runs, rates, the book of jobs."""
    tests = sorted(str(path) for path in HERE.glob("*.test.mjs"))
    ran = subprocess.run(
        ["node", "--test", *tests],
        env={**os.environ, "CONSOLE": str(STATIC)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert int(re.findall(r"^\S+ pass (\d+)", ran.stdout, re.MULTILINE)[0]) > 30
