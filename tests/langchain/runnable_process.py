"""A worker of one runnable in a process of its own: `python runnable_process.py SETTINGS` (JSON). Says `ready` and ends with
its standard input."""

import asyncio
import os
import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tailrace import App
from tailrace.schemas import Settings
from tailrace.worker.app import Worker


def application(base_url: str) -> App:
    """A chain whose model says its 30 words in a second and a half."""
    model = ChatOpenAI(model="gpt-4o-mini", base_url=base_url, api_key=SecretStr("none"), max_retries=0)
    slow = model.bind(extra_body={"rehearsal": {"tokens": 30, "pace": 0.05}})
    app = App()
    app.add_runnable("poem", ChatPromptTemplate.from_template("Write of {topic}") | slow | StrOutputParser())
    return app


async def main(settings_json: str) -> None:
    settings = Settings.model_validate_json(settings_json)
    base_url = settings.upstreams["default"].base_url
    assert base_url is not None
    asyncio.get_running_loop().add_reader(0, lambda: os.read(0, 4096) or os._exit(3))
    async with Worker(settings, app=application(base_url)) as worker:
        print("ready", flush=True)
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
