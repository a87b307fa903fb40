"""Who asks: the dependency of every route."""

from dataclasses import dataclass, field
from typing import Annotated, Final, Protocol, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from tailrace.gateway.access.limits import Limits

#: The tenant of whoever needs no key, and of jobs that were submitted past the gateway.
DEFAULT_TENANT: Final = "default"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as far as the gateway knows."""

    tenant: str = DEFAULT_TENANT
    sees_all: bool = False
    """Whether the jobs of all tenants are theirs to read, cancel and delete."""
    limits: Limits | None = field(default=None, compare=False, repr=False)
    """What their tenant may use. None: as much as they like."""

    @property
    def owner(self) -> str | None:
        """What the records of their jobs say; jobs of the default tenant say nothing, as those submitted without HTTP."""
        return None if self.tenant == DEFAULT_TENANT else self.tenant

    def owns(self, tenant: object) -> bool:
        """Whether a job of this tenant (as its record has it) is theirs."""
        return self.sees_all or tenant == self.owner


class Access(Protocol):
    """Tells who asks."""

    async def principal(self, connection: HTTPConnection) -> Principal:
        """Raises: ApiError (401, 403, 429) for who may not come in."""
        ...


async def principal(connection: HTTPConnection) -> Principal:
    """Who asks, by the access that the application was made with. For HTTP and WebSocket routes."""
    access = cast("Access", connection.app.state.access)
    found = await access.principal(connection)
    connection.state.principal = found  # for Bounds, when the response begins
    return found


#: The parameter of a route that wants to know who asks.
Asking = Annotated[Principal, Depends(principal)]
