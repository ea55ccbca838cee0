"""Packages whose `__init__.py` runs only if something asks for what it defines.

Importing a module of a package runs the package's `__init__.py` first, and those of some libraries import far more than
a worker uses: a client and the types of thirty endpoints, a command line with SSH, a second engine. Behind a deferred
package its modules are imported by themselves. It stays the package: the first attribute that it lacks runs its
`__init__.py`, so `import openai; openai.OpenAI` is as ever.
"""

import sys
import threading
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_running = threading.RLock()  # an __init__.py


def defer(*packages: str) -> None:
    """From now on, unless they are imported already. A package comes before those within it. Any thread; to be called
    before the first import from the packages, and after it without effect. A package that is not installed is left to
    the import that misses it."""
    for name in packages:
        if name in sys.modules:
            continue
        if (spec := find_spec(name)) is None or spec.loader is None:
            return
        package = _DeferredPackage(name)
        package.__spec__, package.__loader__ = spec, spec.loader
        package.__file__, package.__package__ = spec.origin, name
        package.__path__ = list(spec.submodule_search_locations or ())
        sys.modules[name] = package
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, package)


class _DeferredPackage(ModuleType):
    """Holds the modules that were imported from it, until its `__init__.py` runs and adds the rest. A module of it is
    found by its name before."""

    def __getattr__(self, name: str) -> Any:
        with _running:
            is_begun = self.__dict__.get("_is_begun", False)
            if not is_begun and find_spec(f"{self.__name__}.{name}"):
                return import_module(f"{self.__name__}.{name}")
            if not is_begun:
                self._is_begun = True  # which it may ask itself
                self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]  # `defer` saw to both
        if name in self.__dict__:
            return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
