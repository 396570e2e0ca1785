"""Start Python in another process without importing anything from the working directory.

``python -m`` and ``python -c``, and so ``multiprocessing``'s spawn, look for every module in the working
directory first: a stranger's ``cv2.py`` in a folder of pictures would run. Python 3.11 has ``-P`` and
``PYTHONSAFEPATH`` against it; 3.10 has neither, so modules are started by a line that clears the path first.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_OURS = ("sdk", "export", "trainer")
_CLEAR = "import sys; sys.path[:] = [entry for entry in sys.path if entry]; "  # "" is the working directory
_RUN_MODULE = (
    _CLEAR + "sys.argv[:] = sys.argv[1:]; import runpy; "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def python_code(code: str) -> list[str]:
    """Command that runs ``code``, as ``python -c`` does."""
    return [sys.executable, "-c", _CLEAR + code]


def python_module(module: str, *arguments: str) -> list[str]:
    """Command that runs ``module`` with ``arguments``, as ``python -m`` does."""
    return [sys.executable, "-c", _RUN_MODULE, module, *arguments]


def is_run_as_module() -> bool:
    """Whether Python is at starting one of our modules by ``python -m``, so that its package is imported."""
    if sys.argv[:1] != ["-m"]:
        return False
    words = zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    return any(
        re.fullmatch("-[A-Za-z]*m", option) and module.partition(".")[0] in _OURS for option, module in words
    )


def forget_working_directory() -> None:
    """Take the working directory, which ``python -m`` puts first, off the module path. A checkout stays."""
    import sdk

    here = os.path.realpath(".")
    if sys.path and os.path.realpath(sys.path[0]) == here != os.path.realpath(sdk.__path__[0] + "/.."):
        del sys.path[0]


@contextmanager
def safe_spawn() -> Iterator[None]:
    """Start ``multiprocessing`` processes inside: they import nothing from the working directory either.

    A process takes the starter's module path and working directory over before it does anything of its own.
    """
    if sys.version_info >= (3, 11):
        before = os.environ.get("PYTHONSAFEPATH")
        os.environ["PYTHONSAFEPATH"] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ["PYTHONSAFEPATH"]
            else:
                os.environ["PYTHONSAFEPATH"] = before
        return
    here = os.open(".", os.O_RDONLY)
    os.chdir("/")
    try:
        yield
    finally:
        os.fchdir(here)
        os.close(here)
