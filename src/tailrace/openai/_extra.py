"""Says what to install where the openai package is missing. Imported before all else of this room."""

try:
    import httpx2 as httpx2
    import openai as openai
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"tailrace.openai needs the openai package ({error.name} is missing): pip install 'tailrace[openai]'",
        name=error.name,
    ) from error
