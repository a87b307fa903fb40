"""The console's files. They hold nothing of anybody's: the page asks the API for that, with the key of whoever opened it."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated, Final

from fastapi import APIRouter, Header, Response

from tailrace.gateway.errors import ApiError

router = APIRouter(include_in_schema=False)

_PAGE: Final = "index.html"
_MEDIA_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

#: What a model writes is shown in this page. Should a mistake of ours ever make markup of it, the browser still runs
#: nothing: scripts come from our files only, and no text may become markup at all (trusted types).
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # Kept by browsers, but asked for again each time: after an upgrade nobody has half of the old page.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    headers: dict[str, str]


@router.api_route("/", methods=["GET", "HEAD"])
async def page(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """The console."""
    return _sent(_PAGE, if_none_match)


@router.api_route("/console/{name}", methods=["GET", "HEAD"])
async def file(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """What the page is made of."""
    if name == _PAGE or name not in _files():
        raise ApiError(404, f"the console has no file {name!r}", code="not_found")
    return _sent(name, if_none_match)


def _sent(name: str, known: str | None) -> Response:
    found = _files()[name]
    if known is not None and found.headers["ETag"] in known:
        return Response(status_code=304, headers=found.headers)
    return Response(found.content, headers=found.headers)


@cache
def _files() -> dict[str, _File]:
    """By name. Nothing else is ever sent, whatever a path says."""
    return {
        each.name: _file(each.name, each.read_bytes())
        for each in (files("tailrace.gateway.console") / "static").iterdir()
        if each.name.rpartition(".")[2] in _MEDIA_TYPES
    }


def _file(name: str, content: bytes) -> _File:
    headers = {
        **_HEADERS,
        "Content-Type": _MEDIA_TYPES[name.rpartition(".")[2]],
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    }
    return _File(content, headers)
