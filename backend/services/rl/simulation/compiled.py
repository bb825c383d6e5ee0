"""How functions are compiled: decorators for the whole project, and why they differ.

Numba's `njit`, cached on disk, without the GIL, with NumPy's arithmetic (no exception on 0/0).
Numba counts references of every array that a function is handed inside a tuple; in functions of
nanoseconds that is most of their time, so only those that allocate arrays keep it. What Python
never calls gets no Python wrapper, which would be compiled in vain: calling a `kernel` or an
`inlined` function from Python crashes the process.

Numba's cache notices only changes of the file a function stands in, not of what is compiled into
it: after an edit of ``kernels.py`` (or a ``git pull``) the step function would go on playing by
the old rules. So the stamp of every cached function covers all files of `COMPILED_FROM`, and that
of a function outside this room also its own room's files of `POLICIES_COMPILED_FROM`.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])

COMPILED_FROM = (
    "commitments",
    "compiled",
    "demand",
    "disturbances",
    "driving",
    "edges",
    "kernels",
    "kpis",
    "ledger",
    "memory",
    "observation",
    "pairs",
    "reward",
    "sampling",
    "setup",
    "stepping",
    "travel",
    "types",
    "world",
)
"""Modules of this room whose code or constants end up in machine code."""

POLICIES_COMPILED_FROM = (
    "edge_matching",
    "kernels",
    "pair_network",
    "route_clock",
    "route_moves",
    "route_problem",
    "route_search",
    "zone_matching",
)
"""Modules of the policies' room whose compiled functions are compiled into each other."""

_COMMON = {"cache": True, "nogil": True, "error_model": "numpy"}
_INTERNAL = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@cache
def sources_sha256(folder: Path = Path(__file__).parent) -> str:
    """Hash of the files of `COMPILED_FROM`."""
    digest = hashlib.sha256()
    for name in COMPILED_FROM:
        digest.update((folder / f"{name}.py").read_bytes())
    return digest.hexdigest()


@cache
def policies_sha256(folder: Path = Path(__file__).parents[1] / "policies") -> str:
    """Hash of the files of `POLICIES_COMPILED_FROM`."""
    digest = hashlib.sha256()
    for name in POLICIES_COMPILED_FROM:
        digest.update((folder / f"{name}.py").read_bytes())
    return digest.hexdigest()


def _compiled(function: F, **options: Any) -> F:
    dispatcher = njit(function, **_COMMON, **options)
    cached = dispatcher._cache._cache_file
    stamp = (cached._source_stamp, sources_sha256())
    outside = Path(function.__code__.co_filename).parent != Path(__file__).parent
    cached._source_stamp = (*stamp, policies_sha256()) if outside else stamp
    return dispatcher  # type: ignore[no-any-return]


def entry(function: F) -> F:
    """Compile a function that Python calls; it allocates nothing."""
    return _compiled(function, _nrt=False, no_cfunc_wrapper=True)


def allocating(function: F) -> F:
    """Compile a function that Python or compiled code calls, and that creates arrays."""
    return _compiled(function, _nrt=True, no_cfunc_wrapper=True)


def kernel(function: F) -> F:
    """Compile a function that only compiled code calls; it allocates nothing."""
    return _compiled(function, _nrt=False, **_INTERNAL)


def inlined(function: F) -> F:
    """Like `kernel`, compiled into its callers: for the innermost loops."""
    return _compiled(function, _nrt=False, forceinline=True, **_INTERNAL)


def inlined_entry(function: F) -> F:
    """Like `inlined`, for a small function that Python calls too."""
    return _compiled(function, _nrt=False, forceinline=True, no_cfunc_wrapper=True)


def inlined_views(function: F) -> F:
    """Like `inlined`, for functions that return arrays (views of memory they do not own)."""
    return _compiled(function, _nrt=True, forceinline=True, **_INTERNAL)
