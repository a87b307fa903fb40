"""The pages of the documentation as data: their fenced blocks, and what runs each of them.

A block runs by its language: `python` as a program of its own (a `text` block right behind it is what it prints),
`console` line by line in a shell (what follows a `$ ` line is what it says; `...` stands for anything), `toml`, `json` and
`yaml` are read. A block that runs elsewhere or nowhere says so in a comment above it, which readers do not see:

    <!-- run by: tests/cli/test_cli_dev.py -->
    <!-- not run: it needs an empty machine -->
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
#: Pages in another language have the blocks of the English ones (tests/docs/test_translations.py).
PAGES: Final = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if not page.match("*.zh.md"))]

_BLOCK: Final = re.compile(
    r"(?:^<!-- (?P<verb>run by|not run): (?P<why>[^\n]+?) -->\n+)?"
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w-]*)(?: (?P<shows>[^\n]+))?\n(?P<code>.*?)^(?P=indent)(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)
_FILE: Final = re.compile(r"# (?P<name>\w+)\.py\n")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    shows: str | None
    """The file whose content it is, behind the language."""
    code: str
    output: str | None
    """Of a program: what the `text` block behind it says."""
    run_by: str | None
    not_run: str | None

    @property
    def id(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def runs_here(self) -> bool:
        return self.run_by is None and self.not_run is None and self.shows is None

    @property
    def file(self) -> str | None:
        """The name of the file that its first line says it is."""
        found = _FILE.match(self.code) if self.language == "python" else None
        return found and f"{found['name']}.py"


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(text))
    for match, behind in zip(found, [*found[1:], None], strict=False):
        is_output = (
            behind is not None and behind["language"] == "text" and not text[match.end() : behind.start()].strip()
        )
        yield Block(
            page=page,
            line=text[: match.start("fence")].count("\n") + 1,
            language=match["language"],
            shows=match["shows"],
            code=match["code"],
            output=behind["code"] if is_output and behind else None,
            run_by=match["why"] if match["verb"] == "run by" else None,
            not_run=match["why"] if match["verb"] == "not run" else None,
        )


def all_blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page)]


@dataclass(frozen=True)
class Command:
    """One command of a console block."""

    line: str
    output: str
    """What it says; "" where the block does not show it."""

    def says(self, said: str) -> bool:
        """Whether that is what the block shows, with anything in the place of `...`."""
        if not self.output:
            return True
        pattern = ".*".join(re.escape(part) for part in self.output.rstrip().split("..."))
        return re.fullmatch(pattern, said.rstrip(), re.DOTALL) is not None


def commands_of(code: str) -> list[Command]:
    """The commands of a console block. One goes on in the next line after a backslash, or while that begins with `> `."""
    commands: list[tuple[list[str], list[str]]] = []
    for line in code.splitlines():
        if line.startswith("$ "):
            commands.append(([line[2:]], []))
        elif commands and not commands[-1][1] and (line.startswith("> ") or commands[-1][0][-1].endswith("\\")):
            commands[-1][0].append(line.removeprefix("> "))
        elif commands:
            commands[-1][1].append(line)
        else:
            raise ValueError(f"a console block begins with a command: {line!r}")
    return [Command("\n".join(lines), "\n".join(output)) for lines, output in commands]
