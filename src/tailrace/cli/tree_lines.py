"""The tree of a job's runs as lines of text, no more than there is room for. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import groupby
from typing import Final, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from tailrace.cli.tree import Note, Progress, Run, RunTree, Sign, State

_NOTES_SHOWN: Final = 3
_BAR: Final = 24
#: Where a line has no room for everything, the kind of a run goes first, then its text.
_WIDE: Final = 72
_LEAST_TEXT: Final = 8
_JOINER: Final = "\u200d"
#: Marks that are put on one and the same letter, beyond what any language does.
_PILE: Final = re.compile(r"([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{4})\1*")
_MARKS: Final = re.compile(r"(?<=[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]{4})[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]+")
