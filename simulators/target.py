"""How the Monte Carlo's functions are compiled, in one place.

``device`` compiles scalar functions, ``kernel`` the parallel loops over pixels, and ``recompiled`` serves other targets
(:mod:`simulators.cuda`). Numba's own cache asks only whether
the file of the outermost function has changed, not those of the functions it calls; here a digest of all their sources
names the folder, so that compiled code is never older than its physics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
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


def recompiled(function: Any, compiler: Callable[[Any], Any], done: dict[Any, Any] | None = None) -> Any:
    """Compile one of ``device``'s functions, and all those that it calls, for another target.

    The bodies stay the same: each gets a namespace in which the names of compiled functions mean the other target's.

    Parameters
    ----------
    function : callable
        As ``device`` returned it.
    compiler : callable
        Compiles a plain function for the other target.
    done : dict, optional
        What has been compiled so far, by function.
    """
    done = {} if done is None else done
    if function not in done:
        body = function.py_func
        names = dict(body.__globals__)
        for name in body.__code__.co_names:
            if hasattr(names.get(name), "py_func"):
                names[name] = recompiled(names[name], compiler, done)
        done[function] = compiler(FunctionType(body.__code__, names, body.__name__))
    return done[function]
