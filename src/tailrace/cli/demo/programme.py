"""What is asked for, and how the rehearsal plays it."""

from typing import Final
from urllib.parse import quote

PROMPT: Final = "Write me a 1 verse song about sparkling water."
MAX_TOKENS: Final = 512
#: So that one sees it stream.
REHEARSAL: Final = "pace=0.03,ttft=0.2"

#: Under blows: long enough to be cut three times, in its middle.
CHAOS_PROMPT: Final = "Write a long fairy tale about an old water mill, told by the river.\n\nOnce upon a time,"
CHAOS_MAX_TOKENS: Final = 240
_CHAOS_TEXT: Final = """\
Verse 1:
They dammed up the river and gave it a wheel,
It turned for the miller, it ground him his meal,
A stone broke the axle, the wheel came to rest,
The water went on, as it always knew best.

Verse 2:
They locked up the gate in the flood of the year,
The village went dark, there was nothing to hear,
The gate opened up and the river came through
With every last drop that it carried and knew.

Verse 3:
So strike at the wheel, take the gate off its chain,
The race keeps its order, the race keeps its rain,
No drop is forgotten, no drop comes in twice,
And whoever reads late gets the very same slice.

Verse 4:
The miller looked up from his ledger and said:
I counted the drops as they ran through my head,
At noon and at midnight, in frost and in sun,
From first to the last there was missing not one.
"""
_CHAOS_TOKENS: Final = 210
CHAOS_REHEARSAL: Final = f"pace=0.03,ttft=0.1,text={quote(_CHAOS_TEXT, safe='')}"
#: A model this small repeats itself for ever at temperature 0, and nobody could see whether text comes twice.
CHAOS_LOCAL_PARAMS: Final = {"frequency_penalty": 0.6}


def expected_chunks(max_tokens: int, *, rehearsed: bool) -> int:
    """About how many chunks the answer under blows has. A model may end sooner than it must: no more than the default."""
    return min(max_tokens, _CHAOS_TOKENS if rehearsed else CHAOS_MAX_TOKENS)
