"""What an evaluation has finished, batch by batch, so that a killed one goes on where it stopped.

The key of a store holds everything that decides an outcome: the caller's key, the code of the attacks, of the
models, of the runtime's draws and of the reading of data, and the versions of the libraries. Code counts by
its syntax tree without docstrings, so a reworded comment or docstring discards nothing.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import io
import platform
import shutil
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import sdk
import trainer
from sdk.errors import UsageError
from sdk.files import write_atomically

TRAINER = ("robustness/attacks", "robustness/defences", "robustness/evaluation", "models", "data")
SDK = ("draw.py", "suspicion.py", "preprocess.py", "sources/pictures.py")
WORDS = ("report.py", "wording.py", "checks.py")  # decide what is said of an outcome, and no outcome
LIBRARIES = ("torch", "numpy", "onnxruntime", "opencv-python", "pyautoattack", "msgspec")
DIGEST_SIZE = hashlib.sha256().digest_size


class Store:
    """A folder with one file per batch of each rung, named by everything that the outcome depends on.

    Args:
        root: where evaluations are kept.
        key: what else the outcome depends on; other keys have other folders.

    Attributes:
        seconds_saved: that what was loaded took when it was made.

    Raises:
        UsageError: the folder can't be made.
    """

    def __init__(self, root: Path, key: object) -> None:
        self.root = root
        self.seconds_saved = 0.0
        self.folder = (
            root / hashlib.sha256(repr((code_digest(), library_versions(), key)).encode()).hexdigest()[:16]
        )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def load(self, name: str) -> dict[str, Tensor] | None:
        """The tensors saved as ``name``; None if there are none, or they are damaged."""
        try:
            stored = (self.folder / f"{name}.pt").read_bytes()
        except OSError:
            return None
        content, digest = stored[:-DIGEST_SIZE], stored[-DIGEST_SIZE:]
        if hashlib.sha256(content).digest() != digest:  # torch reads many a damaged file without a word
            return None
        result: dict[str, Tensor] | None = torch.load(io.BytesIO(content), weights_only=True)
        return result

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Keep ``tensors``, wholly or not at all: torch's format, and its sha256 behind it.

        Raises:
            UsageError: the folder can't be written, or the disk is full.
        """
        stream = io.BytesIO()
        torch.save(tensors, stream)
        content = stream.getvalue()
        try:
            write_atomically(self.folder / f"{name}.pt", content + hashlib.sha256(content).digest())
        except OSError as error:
            raise self._unwritable(error) from None

    def remove(self) -> None:
        """Remove what is kept under this key, which nobody needs any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _unwritable(self, error: OSError) -> UsageError:
        return UsageError(
            f"{self.root}: can't be written: {error.strerror}", hint="finished batches are to be kept there"
        )


@cache
def library_versions() -> tuple[str, ...]:
    """Of Python and of every library that an outcome depends on, where it is installed."""
    return (platform.python_version(), *(f"{name} {_version(name)}" for name in LIBRARIES))


@cache
def code_digest() -> str:
    """The sha256 of the code that decides what an attack finds, without docstrings and comments."""
    found = hashlib.sha256()
    for package, parts in ((trainer, TRAINER), (sdk, SDK)):
        assert package.__file__ is not None
        root = Path(package.__file__).parent
        for path in (path for part in parts for path in _modules(root / part)):
            code = syntax(path.read_text(encoding="utf-8"))
            found.update(f"{path.relative_to(root.parent).as_posix()} {len(code)}\n{code}".encode())
    return found.hexdigest()


def syntax(code: str) -> str:
    """The syntax tree of a module without its docstrings."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            del node.body[0]
    return ast.dump(tree)


def _modules(place: Path) -> list[Path]:
    found = sorted(place.rglob("*.py")) if place.is_dir() else [place] * place.is_file()
    return [path for path in found if path.name not in WORDS]


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
