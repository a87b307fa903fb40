"""Keys, and whose they are. No key is kept: its digest is.

A key has 256 random bits, so a plain SHA-256 is enough: there is nothing to guess from, and nothing that a slow hash would
slow down but the gateway. Found by its digest, a key takes as long whether it is wrong in the first character or the last.
"""

import hashlib
import logging
import secrets
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from tailrace.gateway.access.limits import Limits
from tailrace.gateway.access.principal import Principal
from tailrace.schemas import InvalidRequest, Settings
from tailrace.schemas.secrets import secret_of
from tailrace.schemas.sections import TenantSettings

logger = logging.getLogger(__name__)

PREFIX: Final = "tr-"
#: Keys from the environment need not be of our making; shorter ones could be guessed.
_SHORTEST: Final = 32
_LOOK_S: Final = 1.0


def new_key() -> str:
    """A key that nobody has."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """What the configuration has of a key."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


class Tenant(NamedTuple):
    """Who a key belongs to."""

    principal: Principal
    settings: TenantSettings


class Tenants:
    """Who has which key. The configuration's file is read again when it has changed: keys and limits need no restart."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limits: dict[str, Limits] = {}
        self._by_name: dict[str, Tenant] = {}
        self._by_hash: dict[str, Tenant] = {}
        self._read: object = None
        self._look_at = 0.0

    def load(self) -> None:
        """Take the tenants of the settings. Raises: InvalidRequest, if one has no key."""
        self._read = self._stamp()
        self._take(self._settings)

    def with_key(self, key: str) -> Tenant | None:
        """Whose key this is."""
        self._refresh()
        return self._by_hash.get(hash_key(key))

    def named(self, name: str) -> Tenant | None:
        """The tenant of that name."""
        self._refresh()
        return self._by_name.get(name)

    def _take(self, settings: Settings) -> None:
        by_name: dict[str, Tenant] = {}
        by_hash: dict[str, Tenant] = {}
        for name, tenant in settings.gateway.tenants.items():
            limits = self._limits.setdefault(name, Limits(name, tenant))
            found = by_name[name] = Tenant(Principal(name, sees_all=tenant.sees_all, limits=limits), tenant)
            for each in (*tenant.key_hashes, *_hashes_of(name, tenant)):
                if by_hash.setdefault(each, found) is not found:
                    raise InvalidRequest(f"tenants {by_hash[each].principal.tenant!r} and {name!r} have the same key")
        for name, found in by_name.items():
            self._limits[name].settings = found.settings
        self._by_name, self._by_hash = by_name, by_hash

    def _refresh(self) -> None:
        if self._settings.config is None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_S
        stamp = self._stamp()
        if stamp is None or stamp == self._read:
            return
        self._read = stamp
        try:
            self._take(Settings.load(config=self._settings.config))
        except InvalidRequest as error:
            # Its traceback would show the file's lines.
            logger.error("the configuration has changed, but the tenants stay as they were: %s", error)  # noqa: TRY400  # as above
        else:
            logger.info(
                "the configuration has changed; tenants: %s", ", ".join(self._by_name) or "none: nobody may ask"
            )

    def _stamp(self) -> object:
        """What tells one version of the file from another; None if there is none to read."""
        if self._settings.config is None:
            return None
        try:
            found = self._settings.config.stat()
        except OSError:  # being replaced
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def _hashes_of(name: str, tenant: TenantSettings) -> Iterator[str]:
    if not tenant.key_env:
        return
    keys = secret_of(tenant.key_env).split()
    if not keys:
        raise InvalidRequest(f"gateway.tenants.{name}: key_env names {tenant.key_env!r}, which is not set")
    for key in keys:
        if len(key) < _SHORTEST:
            raise InvalidRequest(
                f"gateway.tenants.{name}: a key in {tenant.key_env} has less than {_SHORTEST} characters: "
                f"`tailrace keys new {name}` makes one"
            )
        yield hash_key(key)
