"""What runnables put out, as LangChain's own objects again: by an allow list, never by a name in the data."""

from collections.abc import Mapping
from typing import Any, Final, cast

from langchain_core.agents import AgentAction, AgentActionMessageLog, AgentFinish
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    ChatMessageChunk,
    FunctionMessage,
    FunctionMessageChunk,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
    ToolMessageChunk,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk, LLMResult
from langchain_core.prompt_values import ChatPromptValue, ChatPromptValueConcrete, ImagePromptValue, StringPromptValue
from pydantic import BaseModel

#: By the `type` that each has of its own. All of them are plain data: making one calls nobody.
_CLASSES: Final[Mapping[str, type[BaseModel]]] = {
    "ai": AIMessage,
    "AIMessageChunk": AIMessageChunk,
    "human": HumanMessage,
    "HumanMessageChunk": HumanMessageChunk,
    "system": SystemMessage,
    "SystemMessageChunk": SystemMessageChunk,
    "tool": ToolMessage,
    "ToolMessageChunk": ToolMessageChunk,
    "function": FunctionMessage,
    "FunctionMessageChunk": FunctionMessageChunk,
    "chat": ChatMessage,
    "ChatMessageChunk": ChatMessageChunk,
    "remove": RemoveMessage,
    "Document": Document,
    "StringPromptValue": StringPromptValue,
    "ChatPromptValue": ChatPromptValue,
    "ChatPromptValueConcrete": ChatPromptValueConcrete,
    "ImagePromptValue": ImagePromptValue,
    "Generation": Generation,
    "GenerationChunk": GenerationChunk,
    "ChatGeneration": ChatGeneration,
    "ChatGenerationChunk": ChatGenerationChunk,
    "LLMResult": LLMResult,
    "AgentAction": AgentAction,
    "AgentActionMessageLog": AgentActionMessageLog,
    "AgentFinish": AgentFinish,
}

#: Where other objects of LangChain's are within one: their own class is told by their `type`, not by the field's.
_WITHIN: Final[Mapping[str, str]] = {
    "ChatPromptValue": "messages",
    "ChatPromptValueConcrete": "messages",
    "ChatGeneration": "message",
    "ChatGenerationChunk": "message",
    "LLMResult": "generations",
    "AgentActionMessageLog": "message_log",
}


def revive(value: object) -> Any:
    """The value with messages, documents, prompt values, generations and agent steps in it made LangChain's objects again.

    Takes what readers of a job get: an event or its `data`, a result's `output`. What has no `type` of the allow list, or does
    not fit it, stays as it is; so does what people put into such an object (a document's metadata, a tool's artifact). The
    value itself is not changed.
    """
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, object]", value)
        kind = fields.get("type")
        known = _CLASSES.get(kind) if isinstance(kind, str) else None
        if known is not None:
            try:
                return _made(known, fields)
            except Exception:  # noqa: S110 - their validators raise anything for what does not fit
                pass
        return {name: revive(item) for name, item in fields.items()}
    if isinstance(value, list):
        return [revive(item) for item in cast("list[object]", value)]
    return value


def _made(known: type[BaseModel], fields: Mapping[str, object]) -> BaseModel:
    within, own = _WITHIN.get(known.__name__), known.model_fields
    given = {name: item for name, item in fields.items() if name != "type" or name in own}
    return known.model_validate({name: revive(item) if name == within else item for name, item in given.items()})
