"""Says what to install where LangChain is missing. Imported before all else of this room."""

try:
    import langchain_openai as langchain_openai
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"tailrace.langchain needs langchain-openai ({error.name} is missing): pip install 'tailrace[langchain]'",
        name=error.name,
    ) from error
