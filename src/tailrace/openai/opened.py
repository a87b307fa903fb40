"""Clients that open themselves: one for each server, process and configuration, shared by all who bring none."""

import atexit
import os
from threading import Lock
from typing import Final

from tailrace.client import Tailrace
from tailrace.schemas import Settings

_Key = tuple[int, str | None, str | None, str | None]

_OPEN: Final[dict[_Key, Tailrace]] = {}
_LOCK: Final = Lock()


def shared(redis_url: str | None = None, *, namespace: str | None = None, settings: Settings | None = None) -> Tailrace:
    """An open client for these arguments of `Tailrace`, the same for all who ask; closed when the process ends.

    Raises: BrokerUnavailable, BrokerUnsuitable, InvalidRequest.
    """
    # A forked child has none of its parent's threads: it opens its own.
    key = (os.getpid(), redis_url, namespace, settings.model_dump_json() if settings is not None else None)
    with _LOCK:
        client = _OPEN.get(key)
        if client is None:
            client = Tailrace(redis_url, namespace=namespace, settings=settings)
            client.__enter__()
            _OPEN[key] = client
        return client


def close_shared() -> None:
    """Close what `shared` opened in this process. Who asks again gets a new one."""
    with _LOCK:
        mine = [key for key in _OPEN if key[0] == os.getpid()]
        clients = [_OPEN.pop(key) for key in mine]
    for client in clients:
        client.__exit__(None, None, None)


atexit.register(close_shared)
