"""The rehearsal's words: tokens that lose nothing, instances that fit their schema."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.upstreams._script import InvalidScript, parse_script
from tailrace.upstreams._words import answer, cut_at_stop, instance_of, skip_to, tokenize


@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(tokenize(text)) == text


@given(st.lists(st.text(max_size=4)), st.integers(0, 40))
def test_skipping_splits_without_loss(tokens: list[str], offset: int) -> None:
    before, after = skip_to(tokens, offset)
    assert "".join(before) == "".join(tokens)[:offset]
    assert "".join(before + after) == "".join(tokens)


@given(st.lists(st.text("ab", max_size=3)), st.text("ab", min_size=1, max_size=3))
def test_nothing_of_a_stop_sequence_is_left(tokens: list[str], stop: str) -> None:
    kept, hit = cut_at_stop(tokens, [stop])
    assert "".join(kept) == "".join(tokens).partition(stop)[0]
    assert hit == (stop in "".join(tokens))


@given(st.text())
def test_an_answer_has_40_to_120_tokens_and_ends_like_a_sentence(prompt: str) -> None:
    said = answer(prompt)
    assert 40 <= len(tokenize(said)) <= 120
    assert said.rstrip().endswith(".")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "integer", "minimum": 5}, "b": {}}, "required": ["a"]},
        {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 3},
        {"$defs": {"n": {"type": "number", "maximum": 1}}, "properties": {"n": {"$ref": "#/$defs/n"}}},
        {"anyOf": [{"type": "null"}, {"type": "string"}]},
        {"allOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"required": ["b"]}]},
        {"type": ["string", "null"], "minLength": 12, "maxLength": 14},
        {"type": "boolean"},
    ],
)
def test_an_instance_fits_its_schema(schema: dict[str, Any]) -> None:
    jsonschema.validate(instance_of(schema, "for 7 days in Rome"), schema)


def test_a_text_is_what_the_prompt_quotes_else_its_last_word() -> None:
    assert instance_of({"type": "string"}, "a customer named '你好 集团' (it's a group)") == "你好 集团"
    assert instance_of({"type": "string"}, "it isn't a customer's name") == "name"


def test_a_schema_that_refers_to_itself_ends() -> None:
    node: dict[str, Any] = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    assert instance_of({"$defs": {"node": node}, "$ref": "#/$defs/node"})["next"]


def test_a_script_is_read_from_the_name_the_body_and_the_default_in_this_order() -> None:
    script = parse_script("rehearsal:text=a%2C b%3D1,pace=0.5", {"pace": 2}, {"ttft": 3, "text": "other"})
    assert (script.text, script.pace, script.ttft) == ("a, b=1", 2, 3)
    assert parse_script("gpt-4o-mini", None, {}).text is None


@pytest.mark.parametrize(
    ("model", "field"),
    [("rehearsal:at", None), ("rehearsal:at=-1", None), ("rehearsal:fault=no", None), ("m", "cut"), ("m", {"a": 1})],
)
def test_a_script_that_cannot_be_played_is_refused(model: str, field: object) -> None:
    with pytest.raises(InvalidScript):
        parse_script(model, field, {})
