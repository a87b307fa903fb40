"""From the Markdown of code hosts, in which the pages are written, to that of Python-Markdown, which MkDocs has."""

import re
from collections.abc import Iterator
from typing import Final

_FENCE: Final = re.compile(r"^ *(?P<marks>`{3,})(?P<words>.*)$")
_ITEM: Final = re.compile(r"^(?P<indent> *)(?:[-*]|\d+\.) ")
_SHOWN: Final = re.compile(r"^(?P<fence>`{3,}\w+) (?P<file>[\w./-]+)$")


def translated(markdown: str) -> str:
    """The same page. A list gets the empty line before it that Python-Markdown wants, an indent of two becomes one of
    four, a file's name behind a fence becomes the block's title."""
    return "\n".join(_lines(markdown.split("\n")))


def _lines(lines: list[str]) -> Iterator[str]:
    closing, before, in_list = "", "", False
    for line in lines:
        if closing:
            closing = "" if line.strip() == closing else closing
            yield line
        elif fence := _FENCE.match(line):
            closing = fence["marks"]
            yield _SHOWN.sub(r'\g<fence> title="\g<file>"', line)
        elif item := _ITEM.match(line):
            if before.strip() and not in_list:
                yield ""
            in_list = True
            yield " " * len(item["indent"]) + line
        else:
            in_list = in_list and (not line.strip() or line.startswith(" "))
            if in_list and line.startswith("  ") and not line.startswith("    "):
                line = "    " + line.lstrip()
            yield line
        before = line
