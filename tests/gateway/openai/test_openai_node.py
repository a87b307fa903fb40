"""OpenAI's package for Node, unmodified. TAILRACE_TEST_NODE_OPENAI names a folder in which `npm install openai` was done."""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Final

import pytest
from gateways import Served

_INSTALLED: Final = os.environ.get("TAILRACE_TEST_NODE_OPENAI")
_SCRIPT: Final = Path(__file__).parent / "node" / "responses.mjs"


@pytest.mark.skipif(not _INSTALLED or shutil.which("node") is None, reason="no node, or no package openai for it")
async def test_the_package_for_node_streams_resumes_and_tells_errors(gateway: Served) -> None:
    node = await asyncio.create_subprocess_exec(
        "node", str(_SCRIPT), f"{gateway.url}/v1", cwd=_INSTALLED, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await node.communicate()
    assert node.returncode == 0
    seen = json.loads(said)
    text = "".join(f" token{number}" for number in range(20))
    assert seen["text"] == seen["output"] == text
    assert seen["status"] == "completed"
    assert seen["numbers"] == [*range(len(seen["numbers"]))]
    assert seen["failures"] == ["NotFoundError", "BadRequestError", "APIError"]
