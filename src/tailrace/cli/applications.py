"""Finding the application object that `tailrace worker my_app:tailrace` names."""

import sys
from importlib import import_module
from pathlib import Path

from tailrace.schemas import InvalidRequest
from tailrace.tasks import App


def load_app(spec: str) -> App:
    """The App at `module:attribute`; `module` alone is enough if it has only one. Runs the module's code.

    The current folder is looked in first, as `python -m` does. Raises: InvalidRequest saying what was looked for; whatever the
    module itself raises.
    """
    name, _, attribute = spec.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if not all(part.isidentifier() for part in name.split(".")):
        raise InvalidRequest(f"{spec!r} names no application: give module:attribute")
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # the module is there, and imports what is not
        raise InvalidRequest(f"there is no module {name!r} in {here} or on the path: give module:attribute") from error
    if attribute:
        found = getattr(module, attribute, None)
        if isinstance(found, App):
            return found
        what = "nothing of that name" if found is None else f"a {type(found).__qualname__}"
        raise InvalidRequest(f"{spec!r} should be a tailrace.App: {name!r} has {what} there")
    apps = [each for each in vars(module).values() if isinstance(each, App)]
    if len(set(map(id, apps))) != 1:
        count = "no tailrace.App" if not apps else "several"
        raise InvalidRequest(f"module {name!r} has {count}: name the one to run, as in {name}:tailrace")
    return apps[0]
