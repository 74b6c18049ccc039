"""Stand-ins for modules that a package imports and a worker never uses: bound only while that package is imported.

Nothing of this stays in `sys.modules` afterwards, and no installed file is changed (docs/decisions/0003-lean-imports.md).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def standing_in(modules: Mapping[str, ModuleType]) -> Iterator[None]:
    """Bind names in `sys.modules` to these modules; names that are imported already are left alone."""
    fakes = {name: fake for name, fake in modules.items() if sys.modules.setdefault(name, fake) is fake}
    try:
        yield
    finally:
        for name, fake in fakes.items():
            if sys.modules.get(name) is fake:
                del sys.modules[name]


class StandIn(ModuleType):
    """A module whose every public attribute is imported from the real module when it is used."""

    def __getattr__(self, name: str) -> _Deferred:
        if name.startswith("__"):  # the import system asks for __path__, __spec__ and the like
            raise AttributeError(name)
        return _Deferred(self.__name__, name)


class _Deferred:
    """One attribute of a module that is imported at the first call or attribute access."""

    def __init__(self, module: str, name: str) -> None:
        self._where = (module, name)

    def _real(self) -> Any:
        module, name = self._where
        return getattr(importlib.import_module(module), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._real()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)
