"""What the server's log must not have."""

import logging
import os
from typing import Final

_WEBSOCKETS: Final = f"{os.sep}websockets{os.sep}"


class WithoutWire(logging.Filter):
    """Keeps out what the websockets package logs for debugging: all that came and went, keys and prompts among it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG or _WEBSOCKETS not in record.pathname


def keep_secrets_out() -> None:
    """Of uvicorn's log, whoever configures it."""
    log = logging.getLogger("uvicorn.error")
    if not any(isinstance(each, WithoutWire) for each in log.filters):
        log.addFilter(WithoutWire())
