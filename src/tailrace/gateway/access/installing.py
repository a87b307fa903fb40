"""Who may come in, and from which pages: made once for an application."""

from typing import Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from tailrace.gateway.access.bounds import Bounds
from tailrace.gateway.access.document import declare_keys
from tailrace.gateway.access.key_access import KeyAccess
from tailrace.gateway.access.keys import Tenants
from tailrace.gateway.access.logs import keep_secrets_out
from tailrace.gateway.access.open_access import OpenAccess
from tailrace.gateway.access.principal import Access
from tailrace.gateway.access.tokens import Signer
from tailrace.schemas import Settings

#: What a page may read of an answer beside its body.
_EXPOSED: Final = ("Location", "Retry-After", "X-Tailrace-Job-Id")


def install_access(app: FastAPI, settings: Settings, access: Access | None = None) -> None:
    """Set `app.state.access` and `.signer`, and the middleware around all routes: call it when all other is added.

    `access`: by default keys, if some are configured, else everybody on this machine. Raises: InvalidRequest.
    """
    gateway = settings.gateway
    signer = Signer.of(settings)
    if access is None and gateway.tenants:
        tenants = Tenants(settings)
        tenants.load()
        access = KeyAccess(tenants, signer)
        declare_keys(app)
    app.state.signer = signer
    app.state.access = access = access or OpenAccess(gateway.cors_origins)
    app.add_middleware(Bounds, access=access)
    keep_secrets_out()
    if gateway.cors_origins:
        # Outermost: a refusal that a page cannot read looks to it like a broken connection. Any header, since the OpenAI
        # SDK for browsers sends a dozen of its own; what a page may do depends on its key, there are no cookies.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=gateway.cors_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=_EXPOSED,
        )
