"""Words for the rehearsal upstream: tokens, verses, answers, JSON that fits a schema. Pure and deterministic."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

#: A word or a mark with the space before it, or white space: joined again, the tokens are the text.
_TOKEN = re.compile(r" ?\w+| ?[^\w\s]|\n+|\s")

VERSES: Final[Mapping[str, str]] = {
    "Write me a 1 verse song about sparkling water.": (
        "Verse 1:\n"
        "Oh sparkling water, you laugh in the glass,\n"
        "A thousand small lanterns that rise as they pass,\n"
        "No sugar, no sorrow, no shadow, no stain,\n"
        "Just a river that learned how to dance in the rain.\n"
    ),
    "Write me a 1 verse song about goldfish on the moon": (
        "Verse 1:\n"
        "Two goldfish went up in a bowl to the moon,\n"
        "They hummed to the craters a watery tune,\n"
        "The Earth hung above like a marble of blue,\n"
        "And they swam in slow circles, as goldfish will do.\n"
    ),
}

_OPENINGS = ("Here is how I see it:", "A pleasant question.", "Let me think aloud.", "Gladly.", "Of course.")
_SUBJECTS = ("The river", "A small mill", "The old wheel", "Every drop", "The quiet pond", "A patient heron")
_VERBS = ("carries", "follows", "remembers", "turns", "greets", "outlives")
_OBJECTS = ("the morning light", "its own song", "the stones below", "what the rain said", "the slow boats")
_TAILS = ("without any hurry", "as it always has", "and asks for nothing", "until the evening", "mile after mile")
_JOINTS = (".", "; meanwhile,", ", and then,", ".", ".")


def tokenize(text: str) -> list[str]:
    """The text in the pieces a model would send; `"".join` gives it back."""
    return _TOKEN.findall(text)


def numbered(count: int) -> list[str]:
    """` token0`, ` token1` ...: a reader can tell at a glance what is missing or doubled."""
    return [f" token{number}" for number in range(count)]


def answer(prompt: str, choice: int = 0) -> str:
    """The pleasant answer to a prompt: a verse for the two known ones, else 40 to 120 tokens from its hash."""
    if choice == 0 and (verse := VERSES.get(prompt.strip())) is not None:
        return verse
    draw = _draws(f"{choice}:{prompt}")
    text = _pick(_OPENINGS, draw)
    joint, length = "", 40 + next(draw) % 60
    while len(tokenize(text)) < length:
        subject = _pick(_SUBJECTS, draw)
        if joint not in ("", "."):
            subject = subject[0].lower() + subject[1:]
        text += f"{joint} {subject} {_pick(_VERBS, draw)} {_pick(_OBJECTS, draw)} {_pick(_TAILS, draw)}"
        joint = _pick(_JOINTS, draw)
    return text + "."


def _pick(words: Sequence[str], draw: Iterator[int]) -> str:
    return words[next(draw) % len(words)]


def _draws(seed: str) -> Iterator[int]:
    """Endless small numbers, the same for the same seed on every machine and Python."""
    block = hashlib.sha256(seed.encode(errors="surrogatepass")).digest()
    while True:
        yield from block
        block = hashlib.sha256(block).digest()


def cut_at_stop(tokens: Sequence[str], stops: Sequence[str]) -> tuple[list[str], bool]:
    """The tokens before the first stop sequence, and whether there was one."""
    text = "".join(tokens)
    hits = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    if not hits:
        return list(tokens), False
    return skip_to(tokens, min(hits))[0], True


def skip_to(tokens: Sequence[str], offset: int) -> tuple[list[str], list[str]]:
    """The tokens before and from a character offset on; a token that it cuts goes to both sides in part."""
    before: list[str] = []
    for index, token in enumerate(tokens):
        if offset < len(token) or (offset == 0 and token == ""):
            if offset:
                before.append(token[:offset])
            return before, [token[offset:], *tokens[index + 1 :]]
        before.append(token)
        offset -= len(token)
    return before, []


def instance_of(schema: Mapping[str, Any], hint: str = "") -> Any:
    """The smallest honest instance of a JSON Schema: what is required, one item per array.

    Numbers and words of the hint (the prompt) are used where the schema leaves the choice, quoted ones first.
    """
    return _instance(schema, schema.get("$defs") or schema.get("definitions") or {}, hint, 0)


#: What a prompt quotes is most likely what it wants to find in the answer.
_QUOTED: Final = r"(?<!\w)['\"“]([^'\"“”\n]+)['\"”](?!\w)"


def keys_in(prompt: str) -> list[str]:
    """The names that a prompt quotes, which an object without a schema is to have."""
    return [quoted for quoted in re.findall(_QUOTED, prompt) if quoted.isidentifier()]


#: A schema that refers to itself without end gets null below this depth.
_DEPTH: Final = 24


def _instance(schema: Any, definitions: Mapping[str, Any], hint: str, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return None
    wish: Mapping[str, Any] = schema  # pyright: ignore[reportUnknownVariableType]  # foreign JSON
    if "$ref" in wish:
        return _instance(definitions.get(str(wish["$ref"]).rpartition("/")[2]), definitions, hint, depth + 1)
    for word in ("const", "default"):
        if word in wish:
            return wish[word]
    if wish.get("enum"):
        return wish["enum"][0]
    if wish.get("allOf"):
        return _instance(_merged(wish["allOf"], definitions), definitions, hint, depth + 1)
    for word in ("anyOf", "oneOf"):
        if wish.get(word):
            return _instance(wish[word][0], definitions, hint, depth + 1)
    kind = wish.get("type", "object" if "properties" in wish else "string")
    return _plain(kind[0] if isinstance(kind, list) else kind, wish, definitions, hint, depth)


def _merged(parts: Sequence[Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in parts:
        wish = definitions.get(str(part["$ref"]).rpartition("/")[2], {}) if "$ref" in part else part
        for word, value in wish.items():
            if word == "properties":
                merged["properties"] = merged.get("properties", {}) | value
            elif word == "required":
                merged["required"] = [*merged.get("required", []), *value]
            else:
                merged[word] = value
    return merged


def _plain(kind: Any, wish: Mapping[str, Any], definitions: Mapping[str, Any], hint: str, depth: int) -> Any:
    match kind:
        case "object":
            properties: Mapping[str, Any] = wish.get("properties") or {}
            names: list[str] = wish.get("required") or list(properties)
            return {name: _instance(properties.get(name, {}), definitions, hint, depth + 1) for name in names}
        case "array":
            item = wish.get("items", {"type": "string"})
            return [_instance(item, definitions, hint, depth + 1) for _ in range(max(1, wish.get("minItems", 1)))]
        case "integer" | "number":
            found = re.findall(r"-?\d+", hint)
            low, high = wish.get("minimum", float("-inf")), wish.get("maximum", float("inf"))
            number = min(max(int(found[-1]) if found else 3, low), high)
            return int(number) if kind == "integer" else float(number)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            words = re.findall(_QUOTED, hint) or re.findall(r"\w+", hint)
            text = str(words[-1]) if words else "water"
            text = text.ljust(wish.get("minLength", 0), "~")
            return text[: wish["maxLength"]] if "maxLength" in wish else text
