"""How functions are compiled: decorators for the whole project, and why they differ.

Numba's `njit`, cached on disk, without the GIL, with NumPy's arithmetic (no exception on 0/0).
Numba counts references of every array that a function is handed inside a tuple; in functions of
nanoseconds that is most of their time, so only those that allocate arrays keep it. What Python
never calls gets no Python wrapper, which halves compilation: calling a `kernel` or an `inlined`
function from Python crashes the process.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])

_COMMON = {"cache": True, "nogil": True, "error_model": "numpy"}
_INTERNAL = {**_COMMON, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def entry(function: F) -> F:
    """Compile a function that Python calls; it allocates nothing."""
    return njit(function, _nrt=False, no_cfunc_wrapper=True, **_COMMON)  # type: ignore[no-any-return]


def allocating(function: F) -> F:
    """Compile a function that Python or compiled code calls, and that creates arrays."""
    return njit(function, _nrt=True, no_cfunc_wrapper=True, **_COMMON)  # type: ignore[no-any-return]


def kernel(function: F) -> F:
    """Compile a function that only compiled code calls; it allocates nothing."""
    return njit(function, _nrt=False, **_INTERNAL)  # type: ignore[no-any-return]


def inlined(function: F) -> F:
    """Like `kernel`, compiled into its callers: for the innermost loops."""
    return njit(function, _nrt=False, forceinline=True, **_INTERNAL)  # type: ignore[no-any-return]


def inlined_entry(function: F) -> F:
    """Like `inlined`, for a small function that Python calls too."""
    return njit(function, _nrt=False, forceinline=True, no_cfunc_wrapper=True, **_COMMON)  # type: ignore[no-any-return]


def inlined_views(function: F) -> F:
    """Like `inlined`, for functions that return arrays (views of memory they do not own)."""
    return njit(function, _nrt=True, forceinline=True, **_INTERNAL)  # type: ignore[no-any-return]
