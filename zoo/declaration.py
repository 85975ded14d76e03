"""How a method makes itself known: by what the ``__init__.py`` of its folder declares.

Lazy public names, ``zoo list``, ``zoo convert``, checkpoints, round-trip tests, docs navigation and the
README's table follow from it. Reading the declarations of all methods imports neither torch nor any of
their modules.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """A public LightningModule.

    A package of methods has ``METHODS``, a tuple of these, in its ``__init__.py``.

    Attributes:
        name: of the class, ``DTR`` of ``zoo.DTR``.
        module: of the package that defines it, ``module`` of ``zoo.dtr.module``.
        page: of the docs, ``dtr`` of ``docs/pages/dtr.md``; empty for what has no page of its own.
        title: of the page in the docs' navigation.
        about: cell of the README's table: the paper, or what it is.
        small: constructor arguments that make small modules, one mapping per variant worth a test.
        data: class path and init_args of data that the small modules are trained on.
        weights: module of the package that reads and writes other projects' files, or None.
        converts: which files those are, for the README's table.
        convert: what ``zoo convert --method`` calls it; the package's name by default.
    """

    name: str
    module: str = "module"
    page: str = ""
    title: str = ""
    about: str = ""
    small: Sequence[Mapping[str, Any]] = field(default_factory=lambda: ({},))
    data: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    converts: str = ""
    convert: str = ""


@dataclass(frozen=True)
class Family:
    """Methods of one package with a section of their own in the docs' navigation: ``FAMILY`` of the package.

    Attributes:
        title: of the section.
        page: of the docs that gives the overview.
    """

    title: str
    page: str


def lazy(package: str, methods: Sequence[Method]) -> Callable[[str], Any]:
    """``__getattr__`` of a package: its public classes, and its modules, on first use."""
    homes = {method.name: f"{package}.{method.module}" for method in methods}

    def getattribute(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(homes[name]), name)
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}"):
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no {name!r}")

    return getattribute


def declared(package: str, path: Sequence[str]) -> Iterator[tuple[str, Method]]:
    """(package, method) of every folder in ``path``, the ``__path__`` of ``package``, that declares some."""
    for entry in sorted(pkgutil.iter_modules(path), key=lambda e: e.name):
        if entry.ispkg:
            home = importlib.import_module(f"{package}.{entry.name}")
            for method in getattr(home, "METHODS", ()):
                yield home.__name__, method
