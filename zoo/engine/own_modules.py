"""Modules of the current folder: those that the user names in a class path, and what these import.

The folder is not on Python's path, where every library that tries an optional package would find a file of
its name: ``pyarrow.py``, ``tabulate.py``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

NAMES_VARIABLE = "ZOO_OWN_MODULES"
"""Tells processes that are spawned, a loader's workers for instance, what the user has named."""
_CLASS_PATH = re.compile(r"(?<![\w./-])([A-Za-z_]\w*)(?:[.:][A-Za-z_]\w*)+")


def named_modules(texts: Iterable[str]) -> set[str]:
    """First parts of all that reads like a class path: ``mine`` of ``--model=mine.Net`` and ``mine:net``."""
    return {match[1] for text in texts for match in _CLASS_PATH.finditer(text)}


def texts_of(content: Any) -> list[str]:
    """All texts that are values of a configuration."""
    if isinstance(content, dict):
        return [text for value in content.values() for text in texts_of(value)]
    if isinstance(content, list):
        return [text for value in content for text in texts_of(value)]
    return [content] if isinstance(content, str) else []


class OwnModules(MetaPathFinder):
    """Finds, after all others have not, a module of ``folder`` that is named, or imported by one of them.

    Args:
        folder: of the user's files.
        names: of modules.
    """

    def __init__(self, folder: Path, names: set[str]) -> None:
        self.folder, self.names = folder.resolve(), names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or not (fullname in self.names or self._asked_by_one()):
            return None
        return PathFinder.find_spec(fullname, [str(self.folder)])

    def _asked_by_one(self) -> bool:
        """Whether the import statement stands in a file of the folder."""
        frame: Any = sys._getframe(2)
        while frame is not None and str(frame.f_globals.get("__name__")).startswith("importlib"):
            frame = frame.f_back  # of the import itself
        name = str((frame.f_globals if frame else {}).get("__name__", "")).partition(".")[0]
        return self.holds(sys.modules.get(name))

    def holds(self, module: ModuleType | None) -> bool:
        """Whether a module was found here."""
        spec = getattr(module, "__spec__", None)
        places = [spec.origin, *(spec.submodule_search_locations or ())] if spec is not None else []
        return any(place and Path(place).parent == self.folder for place in places)


def install(names: set[str]) -> OwnModules:
    """Let imports find the named modules of the current folder; ``remove`` ends it."""
    finder = OwnModules(Path.cwd(), names)
    sys.meta_path.append(finder)
    os.environ[NAMES_VARIABLE] = " ".join(sorted(names))
    return finder


def remove(finder: OwnModules) -> None:
    """Take back what :func:`install` did."""
    sys.meta_path.remove(finder)
    os.environ.pop(NAMES_VARIABLE, None)


def also_named(text: str) -> None:
    """Names that stand in a file which a setting names."""
    for finder in sys.meta_path:
        if isinstance(finder, OwnModules):
            finder.names |= named_modules([text])


def install_in_child() -> None:
    """In a process that was spawned by a run: find what that run finds."""
    if NAMES_VARIABLE in os.environ:
        sys.meta_path.append(OwnModules(Path.cwd(), set(os.environ[NAMES_VARIABLE].split())))
