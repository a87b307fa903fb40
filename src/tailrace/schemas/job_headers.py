"""The `x-tailrace-...` headers: what callers of an OpenAI API can say of tailrace's own. Pure."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from tailrace.schemas.errors import InvalidRequest

PREFIX: Final = "x-tailrace-"


def options_said(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that are ours, without their prefix: option -> text."""
    return {
        name.lower().removeprefix(PREFIX): text for name, text in headers.items() if name.lower().startswith(PREFIX)
    }


def read_option(option: str, text: str) -> Any:
    """What an option says. Raises: InvalidRequest that names the header."""
    if option not in _READ:
        known = ", ".join(PREFIX + each for each in sorted(_READ))
        raise InvalidRequest(f"no header {PREFIX + option!r} is known; there are {known}")
    read, what = _READ[option]
    try:
        return read(text)
    except ValueError:
        raise InvalidRequest(f"header {PREFIX + option!r} must be {what}, not {text!r}") from None


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _tags(text: str) -> list[str]:
    return [tag.strip() for tag in text.split(",") if tag.strip()]


def _object(text: str) -> dict[str, Any]:
    value: Any = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)  # noqa: TRY004 - told as what it is by the caller
    return cast("dict[str, Any]", value)


#: An option -> how its text is read, and how to say that.
_READ: Final[dict[str, tuple[Callable[[str], Any], str]]] = {
    "upstream": (str, "a name"),
    "queue": (str, "a name"),
    "metadata": (_object, "a JSON object"),
    "tags": (_tags, "words with commas between"),
    "deadline": (float, "seconds"),
    "retention": (float, "seconds"),
    "delay": (float, "seconds"),
    "on-restart": (str, "splice, continue or fail"),
    "max-attempts": (int, "a number"),
    "cancel-on-close": (_flag, "true or false"),
    "job-id": (str, "1 to 128 of A-Z a-z 0-9 _ and -"),
    "resume": (str, "a job's id"),
    "after": (str, "a position"),
}
