"""Who asks, and what they may do: an `Access` makes a `Principal` of a connection, `store_for` submits in its name.

`KeyAccess` is the access of a gateway with keys, `OpenAccess` of one without: everybody on this machine, nobody else.
"""

from tailrace.gateway.access.installing import install_access
from tailrace.gateway.access.key_access import KeyAccess
from tailrace.gateway.access.keys import hash_key, new_key
from tailrace.gateway.access.open_access import OpenAccess, is_loopback
from tailrace.gateway.access.principal import DEFAULT_TENANT, Access, Asking, Principal, principal
from tailrace.gateway.access.submitting import store_for

__all__ = [
    "DEFAULT_TENANT",
    "Access",
    "Asking",
    "KeyAccess",
    "OpenAccess",
    "Principal",
    "hash_key",
    "install_access",
    "is_loopback",
    "new_key",
    "principal",
    "store_for",
]
