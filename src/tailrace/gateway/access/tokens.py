"""Read tokens: who has one may read one job for a while.

For browsers, whose EventSource cannot send a key. HMAC-SHA256 over everything that the token is good for. Libraries for
signed values (JWT among them) bring formats of their own, and a choice of algorithms to get wrong; their clock would be
this machine's, and expiry goes by the server's.
"""

import base64
import hashlib
import hmac
import logging
import secrets
from typing import Final, NamedTuple

from tailrace.schemas import InvalidRequest, Settings
from tailrace.schemas.secrets import secret_of

logger = logging.getLogger(__name__)

_PURPOSE: Final = "tailrace read token 1"
_SHORTEST: Final = 32


class Grant(NamedTuple):
    """What a token grants, on the job that it was made for."""

    expires_ms: int
    """By the server's clock, in milliseconds since 1970."""
    tenant: str
    """Who made it: it is worth what they may do."""
    incarnation: str
    """Of the job: a later one of the same id is another."""


class Signer:
    """Makes tokens and tells true ones. The first secret signs; all are known."""

    def __init__(self, keys: tuple[bytes, ...], namespace: str, *, shared: bool) -> None:
        """`shared`: whether the secrets outlive this process, and other gateways can have them."""
        self._keys, self._namespace, self._shared = keys, namespace, shared

    @classmethod
    def of(cls, settings: Settings) -> "Signer":
        """By the settings; a secret of its own if they name none. Raises: InvalidRequest."""
        name = settings.gateway.token_secret_env
        if not name:
            return cls((secrets.token_bytes(32),), settings.namespace, shared=False)
        found = secret_of(name).split()
        if not found or any(len(each) < _SHORTEST for each in found):
            raise InvalidRequest(
                f"gateway.token_secret_env: {name} must be set to a secret of at least {_SHORTEST} characters "
                "(`openssl rand -hex 32` makes one)"
            )
        return cls(tuple(each.encode() for each in found), settings.namespace, shared=True)

    def sign(self, job_id: str, grant: Grant) -> str:
        """The token for a job: characters that need no escaping in a URL."""
        if not self._shared:
            self._shared = True  # said once
            logger.warning(
                "read tokens are signed with a secret of this process: they end with it and hold at no other gateway "
                "(gateway.token_secret_env names a variable with one to share)"
            )
        signed = f"{grant.expires_ms}.{grant.tenant}.{grant.incarnation}"
        return f"{signed}.{self._mac(self._keys[0], job_id, signed)}"

    def read(self, job_id: str, token: str) -> Grant | None:
        """What a token grants; None if it is not one of ours for this job. It may have expired."""
        signed, _, mac = token.rpartition(".")
        # All keys are tried, whichever fits.
        fits = [hmac.compare_digest(self._mac(key, job_id, signed).encode(), mac.encode()) for key in self._keys]
        if not any(fits):
            return None
        expires_ms, tenant, incarnation = signed.split(".")
        return Grant(int(expires_ms), tenant, incarnation)

    def _mac(self, key: bytes, job_id: str, signed: str) -> str:
        # No part has a line break, so no two contents look alike.
        content = "\n".join((_PURPOSE, self._namespace, job_id, signed))
        digest = hmac.new(key, content.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
