"""What the OpenAPI document says of keys. Only where there are keys: else it would promise refusals that do not come."""

from typing import Any, Final

from fastapi import FastAPI

from tailrace.gateway.access.key_access import TOKEN_PARAMETER, is_read_route

_KEY: Final = "key"
_TOKEN: Final = "readToken"  # noqa: S105  # a name
_SCHEMES: Final[dict[str, Any]] = {
    _KEY: {"type": "http", "scheme": "bearer", "description": "A key of the gateway's configuration."},
    _TOKEN: {
        "type": "apiKey",
        "in": "query",
        "name": TOKEN_PARAMETER,
        "description": "A token for this job, made by POST /v1/jobs/{job_id}/tokens.",
    },
}


def declare_keys(app: FastAPI) -> None:
    """Have the document name what each operation wants: every one that may answer 401 wants something."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            document.setdefault("components", {})["securitySchemes"] = _SCHEMES
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    if "401" in operation["responses"]:
                        readable = method == "get" and is_read_route(path)
                        operation["security"] = [{_KEY: []}, *([{_TOKEN: []}] if readable else [])]
            app.openapi_schema = document
        return app.openapi_schema

    # FastAPI's own way to extend the document. Source: fastapi.tiangolo.com/how-to/extending-openapi.
    app.openapi = openapi  # type: ignore[method-assign]  # as above
