"""Registers our environments as soon as somebody imports Gymnasium.

Gymnasium 1.0 stopped loading the entry points of the group ``gymnasium.envs``; a start-up file
(``startup/atmr_rl_gymnasium.pth``, which pip puts into site-packages) imports this module
instead. Every Python process of the environment passes here, so it imports next to nothing, and
until ``import gymnasium`` happens it does nothing.
"""

import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _GymnasiumFinder(MetaPathFinder):
    """Lets the other finders find Gymnasium, and registers our environments once it has run."""

    def __init__(self) -> None:
        self._asking_others = False

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 (the interface's)
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname != "gymnasium" or self._asking_others:
            return None
        self._asking_others = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking_others = False
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register()

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def _register() -> None:
    try:
        from .registration import register_environments
    except ImportError as error:  # a damaged installation of ours must not break Gymnasium
        warnings.warn(f"atmr/Dispatch-v1 is not registered: {error}", stacklevel=2)
    else:
        register_environments()


def watch_for_gymnasium() -> None:
    """Wait for Gymnasium's import; once is enough, and it may have happened already."""
    if "gymnasium" in sys.modules:
        _register()
    elif not any(isinstance(finder, _GymnasiumFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _GymnasiumFinder())


watch_for_gymnasium()
