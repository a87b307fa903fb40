"""Says what to install where FastAPI or uvicorn is missing. Imported before all else of this room."""

try:
    import fastapi as fastapi
    import uvicorn as uvicorn
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"tailrace.gateway needs FastAPI and uvicorn ({error.name} is missing): pip install 'tailrace[gateway]'",
        name=error.name,
    ) from error
