"""What the zoo holds, found without importing torch: methods, configs, data, weights."""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.hub.yaml_files import read_yaml

OVERLAYS, SWEEPS, CLAIMS = "trainer", "sweeps", "claims"


def config_folder() -> Path:
    """``configs/`` of the checkout (editable install) or ``zoo/configs`` of the installed package."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the shipped configs are missing beside {package}; reinstall lightning-zoo")


def config_names() -> list[str]:
    """Names of the shipped configs without ``.yaml``; overlays as ``trainer/<name>``."""
    folder = config_folder()
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))


def find_config(name: str, kind: str = "") -> Path:
    """A YAML file by path, ``configs/x.yaml``, ``x.yaml``, ``x`` or ``trainer/x``.

    Args:
        name: what the user wrote.
        kind: ``sweeps`` or ``claims`` looks in that folder of the shipped configs first.

    Raises:
        FileNotFoundError: with the nearest shipped names.
    """
    given = Path(name)
    if os.path.isfile(given):
        return given
    if (shipped := _shipped(name, kind)) is not None:
        return shipped
    if os.path.isdir(given):
        raise FileNotFoundError(f"config {name!r} is a folder; give a YAML file in it")
    short = _short(name)
    near = difflib.get_close_matches(short, config_names(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `zoo list configs`"
    raise FileNotFoundError(f"no config {name[:100]!r}: neither a file nor a shipped config; {hint}")


def shadowed(path: Path, kind: str = "") -> Path | None:
    """The shipped config that a file of its name in the current folder stands before, if it does."""
    shipped = _shipped(str(path), kind)
    return None if shipped is None or not path.exists() or shipped.samefile(path) else shipped


def _short(name: str) -> str:
    return name.removeprefix("configs/").removesuffix(".yaml")


def _shipped(name: str, kind: str) -> Path | None:
    candidates = (folder / f"{_short(name)}.yaml" for folder in (config_folder() / kind, config_folder()))
    return next((path for path in candidates if os.path.isfile(path)), None)


def registry() -> dict[str, dict[str, Any]]:
    """The registered weights: name -> method, config, file, sha256, bytes, licence, metrics, command."""
    path = Path(__file__).resolve().parent / "registry.yaml"
    entries: dict[str, dict[str, Any]] = read_yaml(path) or {}
    return entries


def _first_sentence(names: Mapping[str, str], name: str) -> str:
    """First docstring line of a class, read from its source."""
    path = Path(__file__).resolve().parents[2] / Path(*names[name].split(".")).with_suffix(".py")
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            text = (ast.get_docstring(node) or "").split("\n\n")[0]
            return " ".join(text.split())
    return ""


def _header(path: Path) -> str:
    """First comment line of a config."""
    with path.open() as file:
        first = file.readline()
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def listing(data: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Rows of ``zoo list`` by kind.

    Args:
        data: name -> module of the data modules; ``zoo`` itself knows none.
    """
    import zoo

    folder = config_folder()
    return {
        "methods": [
            {"name": f"zoo.{n}", "about": _first_sentence(zoo._METHODS, n)} for n in sorted(zoo._METHODS)
        ],
        "configs": [{"name": n, "about": _header(folder / f"{n}.yaml")} for n in config_names()],
        "data": [{"name": f"datamodules.{n}", "about": _first_sentence(data, n)} for n in sorted(data)],
        "weights": [
            {"name": n, "about": f"{e['method']}, config {e['config']}, {e['bytes'] / 1e6:.1f} MB", **e}
            for n, e in sorted(registry().items())
        ],
    }


def read_mapping(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Args:
        path: of the file.
        keys: it may have, for the error.

    Raises:
        ValueError: with the line, for a file that is no YAML or no mapping.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping with {', '.join(keys)}")
    return content
