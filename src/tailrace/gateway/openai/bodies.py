"""What the OpenAI API takes. Only what the gateway reads itself is named: all other fields go to the upstream as they are."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictBool

from tailrace.schemas import JsonObject


class _Fields(BaseModel):
    model_config = ConfigDict(extra="allow")

    def sent(self) -> dict[str, Any]:
        """The body as it was sent."""
        return self.model_dump(exclude_unset=True)


class _Body(_Fields):
    model: str | None = None
    """The upstream that offers it is asked, else the default one; that one's default model without it."""


class ChatBody(_Body):
    """A chat completion."""

    messages: list[JsonObject]
    """At least one, but where a job is resumed."""
    stream: StrictBool | None = None
    stream_options: JsonObject | None = None


class CompletionBody(_Body):
    """A legacy completion."""

    prompt: str | list[str]
    """A list is a job for each; it cannot be streamed. At least one, but where a job is resumed."""
    stream: StrictBool | None = None
    stream_options: JsonObject | None = None


class ResponseBody(_Body):
    """A response."""

    input: str | list[JsonObject] | None = None
    instructions: JsonValue = None
    stream: StrictBool | None = None
    background: StrictBool | None = None
    """Answer at once with the response's id; retrieve it, or stream it, later."""
    store: StrictBool | None = None
    """false: it can be retrieved for a minute only after its end, and no other response builds on it, but over the WebSocket
    that it came by."""
    previous_response_id: str | None = None
    """The response that this one goes on with."""
    metadata: dict[str, str] | None = None
    """Every reader of the job gets it."""


class CompactBody(_Fields):
    """A conversation to compact. All other fields of a response are taken too, as far as they bear on how it is written."""

    model: str = Field(min_length=1)
    input: str | list[JsonObject] | None = None
    instructions: JsonValue = None
    previous_response_id: str | None = None
    """The response that the conversation ends with, or goes on from with `input`."""
