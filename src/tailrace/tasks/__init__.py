"""Tasks: jobs of several steps, as their authors see them. What a task is, what it is given, what makes a step the same step.

    from tailrace import App, Context

    tailrace = App()

    @tailrace.task
    async def haiku(ctx: Context, subject: str) -> str:
        draft = await ctx.llm(f"A haiku about {subject}", name="draft")
        return await ctx.llm(f"Improve this haiku: {draft}", name="improve")

`tailrace worker my_app:tailrace` runs it; `submit(task="haiku", input="otters")` asks for it. Loads neither arq nor openai:
the module with the tasks may be imported anywhere. Imports schemas only; `tailrace.worker.tasks` runs them.
"""

from tailrace.tasks.app import App
from tailrace.tasks.context import Answered, Child, Context, Emitted, Jobs, LlmStep
from tailrace.tasks.declared import Task
from tailrace.tasks.identity import Identity, input_hash
from tailrace.tasks.runnables import RunnableJob, RunnableTask

__all__ = [
    "Answered",
    "App",
    "Child",
    "Context",
    "Emitted",
    "Identity",
    "Jobs",
    "LlmStep",
    "RunnableJob",
    "RunnableTask",
    "Task",
    "input_hash",
]
