"""LangChain's own standard suite for chat models, over a real worker and the rehearsal upstream.

What it skips, it skips for `ChatOpenAI` with the same properties too; nothing is marked as an expected failure.
"""

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from tailrace import Tailrace
from tailrace.langchain import ChatTailrace

MODEL = "gpt-4o-mini"
#: langchain-openai's own, with ChatOpenAI as well: pydantic on the events of `beta.chat.completions.stream`, and a
#: recommendation against schemas of pydantic 1, which the suite tries.
KNOWN_WARNINGS = (
    "ignore:Pydantic serializer warnings:UserWarning",
    "ignore:Received a Pydantic BaseModel V1 schema:UserWarning",
)


class TestUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatTailrace

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"OPENAI_ORG_ID": "org"}, self.chat_model_params, {"openai_organization": "org"}


@pytest.mark.filterwarnings(*KNOWN_WARNINGS)
class TestIntegration(ChatModelIntegrationTests):
    _tailrace: Tailrace

    @pytest.fixture(autouse=True)
    def _below(self, tailrace: Tailrace) -> None:
        type(self)._tailrace = tailrace

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatTailrace

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "tailrace": self._tailrace}

    @property
    def model_override_value(self) -> str:
        return "gpt-4.1-mini"

    @property
    def supports_json_mode(self) -> bool:
        return True
