"""How the Monte Carlo's functions are compiled, in one place.

``device`` compiles scalar functions, ``kernel`` the parallel loops over pixels. Numba's own cache asks only whether
the file of the outermost function has changed, not those of the functions it calls; here a digest of all their sources
names the folder, so that compiled code is never older than its physics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from platformdirs import user_cache_path

import drivers.geometry

Function = TypeVar("Function", bound=Callable[..., Any])

_HERE = Path(__file__)
_SOURCES = (
    Path(drivers.geometry.__file__),
    *(_HERE.with_name(name) for name in ("target.py", "relief.py", "transport.py", "kernels.py")),
)
# No flag that presumes finite numbers: a mistake should show as NaN, not vanish.
_FASTMATH = {"contract", "arcp", "nsz", "afn"}


def cache_folder() -> Path:
    """Return where the compiled functions of these sources are kept."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()[:16]
    return user_cache_path("rilievo") / "compiled" / digest


@contextmanager
def _keyed_cache() -> Iterator[bool]:
    """Point numba's cache at the folder of these sources; yields whether it can be written."""
    settings: Any = numba.config
    before = settings.CACHE_DIR
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        settings.CACHE_DIR = str(folder)
        writable = True
    except OSError:
        writable = False
    try:
        yield writable
    finally:
        settings.CACHE_DIR = before


def _compiled(function: Function, **options: Any) -> Function:
    with _keyed_cache() as writable:
        compiled = numba.njit(cache=writable, error_model="numpy", nogil=True, fastmath=_FASTMATH, **options)(function)
    return cast("Function", compiled)


def device(function: Function) -> Function:
    """Compile a scalar function that kernels call."""
    return _compiled(function)


def kernel(function: Function) -> Function:
    """Compile a loop over pixels, its ``numba.prange`` in parallel threads."""
    return _compiled(function, parallel=True)
