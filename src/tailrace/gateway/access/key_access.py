"""With keys: who has one may do what their tenant may, who has a read token may read its job."""

from typing import Final
from urllib.parse import unquote_plus

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import Scope

from tailrace.gateway.access.keys import Tenant, Tenants
from tailrace.gateway.access.principal import Principal
from tailrace.gateway.access.tokens import Signer
from tailrace.gateway.errors import ApiError
from tailrace.gateway.gateway import gateway_of
from tailrace.schemas import JobNotFound

#: Where below a job a read token is taken. Routes that are not here do not know it.
_READ_ROUTES: Final = ("", "/stream", "/events", "/records")
#: A query parameter with this name is a read token on every route.
TOKEN_PARAMETER: Final = "token"  # noqa: S105  # a name
_STATE: Final = "read_token"
#: A parameter of reading routes that ends a job.
_CANCELS: Final = "cancel_on_disconnect"


class KeyAccess:
    """Lets in who brings a key of the configuration, or a read token where one is enough."""

    def __init__(self, tenants: Tenants, signer: Signer) -> None:
        self._tenants, self._signer = tenants, signer

    async def principal(self, connection: HTTPConnection) -> Principal:
        token = getattr(connection.state, _STATE, None)
        if token is not None and _key(connection.headers) is None:
            found = await self._with_token(connection, token)
        else:
            found = self.tenant(connection.headers).principal
        if found.limits is not None:
            tailrace = gateway_of(connection).tailrace
            await found.limits.admit(tailrace.broker, tailrace.settings.keys)
        return found

    def tenant(self, headers: Headers) -> Tenant:
        """Whose key a request brings. Raises: ApiError (401)."""
        key = _key(headers)
        if key is None:
            raise _refusal("no key: send Authorization: Bearer <key>", "missing_api_key", challenge="")
        found = self._tenants.with_key(key)
        if found is None:
            raise _refusal("the key is not known here", "invalid_api_key")
        return found

    async def _with_token(self, connection: HTTPConnection, token: str) -> Principal:
        job_id = connection.path_params.get("job_id")
        if not isinstance(job_id, str) or not _reads(connection, job_id):
            raise _refusal("a read token is not enough here: send Authorization: Bearer <key>", "missing_api_key")
        grant = self._signer.read(job_id, token)
        tenant = None if grant is None else self._tenants.named(grant.tenant)
        if grant is None or tenant is None:
            raise _refusal("the token is not for this job, or not of this gateway", "invalid_token")
        tailrace = gateway_of(connection).tailrace
        if await tailrace.broker.queue.now_ms() >= grant.expires_ms:
            raise _refusal("the token has expired: ask for another", "token_expired")
        if _CANCELS in connection.query_params:
            raise ApiError(403, f"who reads with a token cannot cancel: leave {_CANCELS} out", code="read_only")
        if (await tailrace.consumer.look(job_id)).job.get("incarnation") != grant.incarnation:
            raise JobNotFound(job_id)
        return tenant.principal


def take_token(scope: Scope) -> None:
    """Take the read token out of a connection's URL, so that whoever logs the URL does not log the token."""
    kept: list[bytes] = []
    for part in scope["query_string"].split(b"&"):
        name, _, value = part.decode("latin-1").partition("=")
        if unquote_plus(name) == TOKEN_PARAMETER:
            scope["state"][_STATE] = unquote_plus(value)
        else:
            kept.append(part)
    # In place: the server, which logs it, has this very mapping.
    scope["query_string"] = b"&".join(kept)


def _key(headers: Headers) -> str | None:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def is_read_route(path: str, job_id: str = "{job_id}") -> bool:
    """Whether a read token of a job is taken there."""
    return path in {f"/v1/jobs/{job_id}{each}" for each in _READ_ROUTES}


def _reads(connection: HTTPConnection, job_id: str) -> bool:
    path = str(connection.scope["path"]).removeprefix(connection.scope.get("root_path", ""))
    return connection.scope.get("method") in ("GET", "HEAD") and is_read_route(path, job_id)


def _refusal(message: str, code: str, *, challenge: str = ', error="invalid_token"') -> ApiError:
    # Source: RFC 6750, section 3.
    return ApiError(401, message, code=code, headers={"WWW-Authenticate": f'Bearer realm="tailrace"{challenge}'})
