"""`tailrace keys`: keys for tenants of the gateway."""

from typing import Annotated, Final

import typer
from pydantic import ValidationError

from tailrace.cli.exits import MissingExtra
from tailrace.cli.options import Json
from tailrace.cli.output import Output, reporting
from tailrace.schemas import GatewaySettings, InvalidRequest

keys: Final = typer.Typer(help="Keys for tenants of the gateway.", no_args_is_help=True)


@keys.callback()
def _options() -> None:  # pyright: ignore[reportUnusedFunction]  # makes `new` a command of its own
    """Keys for tenants of the gateway."""


@keys.command()
def new(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose key it will be.", show_default=False)],
    *,
    json: Json = False,
) -> None:
    """Make a key, and print it with the line that makes the gateway know it. It is stored nowhere: nobody can print it again."""
    output = Output(json=json)
    with reporting(output):
        try:
            from tailrace.gateway.access import hash_key, new_key  # an extra of its own
        except ImportError as error:
            raise MissingExtra(
                f"this command needs {error.name or 'packages'}: pip install 'tailrace[gateway]'"
            ) from error
        key = new_key()
        hashed = hash_key(key)
        try:
            GatewaySettings.model_validate({"tenants": {tenant: {"key_hashes": (hashed,)}}})
        except ValidationError:
            raise InvalidRequest(f"{tenant!r} is no tenant: use 1 to 64 of the characters A-Z a-z 0-9 _ -") from None
        if output.json:
            output.object({"tenant": tenant, "key": key, "key_hash": hashed})
            return
        output.line(key)
        output.note(
            f"The key of {tenant}: it is shown this once. In the file that TAILRACE_CONFIG names:\n\n"
            f'[gateway.tenants.{tenant}]\nkey_hashes = ["{hashed}"]'
        )
