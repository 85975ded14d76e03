"""What the zoo holds, found without importing torch: methods, configs, data, weights."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

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
    if given.is_file():
        return given
    short = name.removeprefix("configs/").removesuffix(".yaml")
    for folder in (config_folder() / kind, config_folder()):
        if (folder / f"{short}.yaml").is_file():
            return folder / f"{short}.yaml"
    if given.is_dir():
        raise FileNotFoundError(f"config {name!r} is a folder; give a YAML file in it")
    near = difflib.get_close_matches(short, config_names(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `zoo list configs`"
    raise FileNotFoundError(f"no config {name!r}: neither a file nor a shipped config; {hint}")


def registry() -> dict[str, dict[str, Any]]:
    """The registered weights: name -> method, config, file, sha256, bytes, licence, metrics, command."""
    path = Path(__file__).resolve().parent / "registry.yaml"
    entries: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text()) or {}
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
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping with {', '.join(keys)}")
    return content
