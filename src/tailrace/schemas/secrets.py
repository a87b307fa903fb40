"""Secrets that a process is given: in a variable of its environment, or in a file that a variable names.

`OPENAI_API_KEY_FILE=/run/secrets/openai_api_key` stands for `OPENAI_API_KEY`, as it does in the images that Docker maintains.
Files are what Compose and Kubernetes mount secrets as: they are not inherited by children, nor shown by `docker inspect`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tailrace.schemas.errors import InvalidRequest

#: What is appended to a variable's name.
FILE: Final = "_FILE"
_LARGEST: Final = 64 * 1024


def secret_of(name: str, environment: Mapping[str, str] | None = None) -> str:
    """What the variable holds, else what is in the file that `<name>_FILE` names, without spaces around it; "" if neither
    is set.

    Raises: InvalidRequest that names the variable, never what is in it: both are set, or the file cannot be read.
    """
    variables = os.environ if environment is None else environment
    value, path = variables.get(name, "").strip(), variables.get(name + FILE, "").strip()
    if not path:
        return value
    if value:
        # Whichever won, somebody would change the other one and wonder.
        raise InvalidRequest(f"{name} and {name}{FILE} are both set: unset one of them")
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise InvalidRequest(f"the file that {name}{FILE} names is too large for a secret (over {_LARGEST} bytes)")
        return content.decode().strip()
    except OSError as error:
        raise InvalidRequest(f"the file that {name}{FILE} names cannot be read: {error}") from error
    except UnicodeDecodeError:
        raise InvalidRequest(f"the file that {name}{FILE} names is not UTF-8") from None
