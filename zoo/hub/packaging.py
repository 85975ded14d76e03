"""How the package is built: ``configs/`` of the checkout goes into it as ``zoo/configs``."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py

CONFIGS = Path("configs")


def config_files() -> list[Path]:
    """The shipped configs, seen from the checkout."""
    return sorted(CONFIGS.rglob("*.yaml"))


class BuildPy(build_py):
    """setuptools finds the packages by itself, but no folder outside of them."""

    def run(self) -> None:
        """Build, then copy the configs; an editable install reads those of the checkout."""
        super().run()
        if not self.editable_mode:
            for path in config_files():
                target = Path(self.build_lib) / "zoo" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)

    def get_source_files(self) -> list[str]:
        """What a source distribution holds."""
        return [*super().get_source_files(), *map(str, config_files())]
