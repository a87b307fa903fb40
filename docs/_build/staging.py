"""The folder that the site is built from: docs/ with the README, the files that pages link to, and the written references."""

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import cli_reference
import http_reference
import markdown_dialect
import settings_reference

#: Files outside docs/ that are pages: path in the repository, path in the site.
PAGES: Final = {
    "README.md": "index.md",
    "README.zh.md": "index.zh.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
#: What else may be linked to. Each is shown on a page of its own under files/.
SHOWN: Final = ("examples/**/*", "docker-compose.yml", "Dockerfile", "src/tailrace/schemas/errors.py", "deploy/**/*")
#: A line in a page, and what the site has in its place.
REFERENCES: Final[dict[str, Callable[[], str]]] = {
    "http": http_reference.markdown,
    "cli": cli_reference.markdown,
    "settings": settings_reference.markdown,
}
_LANGUAGES: Final = {
    ".py": "python", ".js": "js", ".mjs": "js", ".html": "html", ".sh": "bash", ".yml": "yaml", ".yaml": "yaml",
    ".json": "json", ".ipynb": "json", ".toml": "toml", "": "dockerfile",
}  # fmt: skip
_MARKER: Final = re.compile(r"^<!-- reference: (?P<name>\w+) -->$", re.MULTILINE)
#: What a page says to those who read it where the references are not.
_ELSEWHERE: Final = re.compile(r"^On the site, [^\n]+ when the site is built \(`\./run docs`\)\.\n", re.MULTILINE)
#: What leads to the same page in another language: the site has a menu for that.
_LANGUAGE_LINE: Final = re.compile(
    r"^(?:English · \[.*\]|\[English\].*|\*\[(?:English|中文版)\]\(.*\)\*)(?:\(.*\))?\n\n", re.MULTILINE
)
_LINK: Final = re.compile(r'(?P<before>\]\(|(?:src|href|srcset)=")(?P<path>(?![a-z]+:|#|/)[^)"#\s]+)')


def stage(root: Path, target: Path) -> None:
    """Make `target` that folder. What is the same already is left alone, so that a server which watches it has peace."""
    wanted = dict(_files(root))
    for uri, content in wanted.items():
        file = target / uri
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    for file in target.rglob("*"):
        if file.is_file() and file.relative_to(target).as_posix() not in wanted:
            file.unlink()


def _files(root: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted((root / "docs").rglob("*")):
        uri = file.relative_to(root / "docs").as_posix()
        if file.is_file() and not uri.startswith("_build/"):
            yield (
                uri,
                _staged(f"docs/{uri}", file.read_text("utf-8"), root) if file.suffix == ".md" else file.read_bytes(),
            )
    for source, uri in PAGES.items():
        if (root / source).exists():
            yield uri, _staged(source, (root / source).read_text("utf-8"), root)
    for path in shown(root):
        yield _shown_uri(path), _page(root, path)
    yield "files/examples/index.md", _listing(root)


def _staged(source: str, markdown: str, root: Path) -> bytes:
    markdown = _LANGUAGE_LINE.sub("", markdown, count=1)
    if _MARKER.search(markdown):
        markdown = _ELSEWHERE.sub("", markdown)
    markdown = _MARKER.sub(lambda marker: REFERENCES[marker["name"]](), markdown)
    # The front page and its neighbour in the navigation are the same.
    front = "---\nhide: [navigation]\n---\n" if PAGES.get(source, "").startswith("index") else ""
    return (front + with_links_inside(markdown_dialect.translated(markdown), source, root)).encode()


def with_links_inside(markdown: str, source: str, root: Path) -> str:
    """The page with its links to files of the repository turned into links within the site."""
    here, page = posixpath.dirname(source), PAGES.get(source, source.removeprefix("docs/"))

    def turned(link: re.Match[str]) -> str:
        uri = _uri(posixpath.normpath(posixpath.join(here, link["path"])), root)
        return link[0] if uri is None else link["before"] + posixpath.relpath(uri, posixpath.dirname(page) or ".")

    return _LINK.sub(turned, markdown)


def _uri(target: str, root: Path) -> str | None:
    """Where the site has this file of the repository. None: nowhere."""
    if target in PAGES:
        return PAGES[target].replace(".zh.md", ".md")
    if target.startswith("docs/"):
        return target.removeprefix("docs/").replace(".zh.md", ".md")
    if target == "examples":
        return "files/examples/index.md"
    return _shown_uri(target) if (root / target).is_file() else None


def shown(root: Path) -> list[str]:
    """The files of the repository that have a page each."""
    return sorted(
        path.relative_to(root).as_posix()
        for pattern in SHOWN
        for path in root.glob(pattern)
        if path.is_file() and path.suffix in _LANGUAGES and not {"node_modules", "__pycache__"} & set(path.parts)
    )


def _shown_uri(path: str) -> str:
    # No dot in the name: the plugin for languages would take `.py` for one.
    return f"files/{path.replace('.', '-')}.md"


def _page(root: Path, path: str) -> bytes:
    """The file, as it is; the search has enough to do with pages."""
    text = (root / path).read_text("utf-8").rstrip()
    fence = "`" * max(4, max(map(len, re.findall(r"`+", text)), default=0) + 1)
    language = _LANGUAGES[Path(path).suffix]
    return f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n{fence}{language}\n{text}\n{fence}\n".encode()


def _listing(root: Path) -> bytes:
    """The examples, each with the first line that it says of itself."""
    lines = ["---", "search:", "  exclude: true", "---", "# Examples", "", "| file | |", "|---|---|"]
    for path in shown(root):
        if path.startswith("examples/"):
            docstring = re.match(r'"""(?P<line>.*?)(?:"""|$)', (root / path).read_text("utf-8"), re.MULTILINE)
            link = _shown_uri(path).removeprefix("files/examples/")
            lines.append(f"| [{path.removeprefix('examples/')}]({link}) | {docstring['line'] if docstring else ''} |")
    return ("\n".join(lines) + "\n").encode()
