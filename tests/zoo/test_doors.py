"""Who may import whom, and what a bare import costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import datamodules
import zoo

ROOT = Path(zoo.__file__).parent.parent
METHODS = {
    p.partition(".")[2] for p, m in zoo._DECLARED.values() if p not in ("zoo.metrics", "zoo.diffusion")
}
SHARED = {
    "nn", "drawing", "metrics", "diffusion", "randomness", "reports", "file_names", "locks", "declaration",
}  # fmt: skip
MACHINERY = {"engine", "hub", "evidence"}
# What a door lets through: a room may import from the named ones and from itself.
DOORS = {
    **{method: {*SHARED, "hub.foreign"} for method in METHODS},
    **dict.fromkeys(SHARED, SHARED),
    **{room: {*SHARED, "hub.foreign"} for room in ("metrics", "diffusion")},
    "nn": {*SHARED, "hub.foreign", "hub.shards"},  # networks have files, too
    "hub": {"hub", "declaration", "reports", "file_names", "locks"},
    "engine": {"engine", "hub", *SHARED},
    "evidence": {"evidence", "engine", "hub", "declaration", "drawing", "file_names", "locks"},
}


def imported_modules(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def offenders(folder: Path, forbidden: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted(folder.rglob("*.py"))
        for name in imported_modules(path)
        if any(name == f or name.startswith(f + ".") for f in forbidden)
    ]


def in_fresh_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


def test_the_scan_sees_the_methods() -> None:
    assert {"dtr", "graphs"} <= METHODS
    assert "zoo.dtr.network.DiT" in imported_modules(ROOT / "zoo" / "dtr" / "module.py")


def test_every_room_has_a_door() -> None:
    rooms = {p.stem for p in (ROOT / "zoo").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert rooms - {"__init__"} == set(DOORS) == METHODS | SHARED | MACHINERY


@pytest.mark.parametrize("room", sorted(DOORS))
def test_rooms_import_only_what_their_door_lets_through(room: str) -> None:
    """cli -> evidence -> engine -> hub -> (declarations) -> methods -> shared rooms; none goes back."""
    home = ROOT / "zoo" / room
    allowed = [f"zoo.{name}" for name in {room, *DOORS[room]}]
    for path in [home.with_suffix(".py")] if not home.is_dir() else sorted(home.rglob("*.py")):
        for name in imported_modules(path):
            inside = name.startswith("zoo.") and name.split(".")[1] in DOORS
            through = any(name == a or name.startswith(a + ".") for a in allowed)
            assert through or not inside, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("room", sorted(MACHINERY))
def test_the_machinery_names_no_method(room: str) -> None:
    names = [rf"\bzoo\.{m}\b" for m in METHODS] + [rf"\bzoo\.{name}\b" for name in zoo._METHODS]
    for path in sorted((ROOT / "zoo" / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            # texts of docstrings, errors and help may give an example
            if isinstance(node, ast.Name | ast.Attribute):
                assert not any(re.fullmatch(n.replace("\\b", ""), ast.unparse(node)) for n in names), path


def test_zoo_never_imports_datamodules_or_the_cli() -> None:
    assert offenders(ROOT / "zoo", {"datamodules", "cli"}) == []


def test_datamodules_never_import_zoo_or_the_cli() -> None:
    assert offenders(ROOT / "datamodules", {"zoo", "cli"}) == []


@pytest.mark.parametrize("package", ["zoo", "datamodules"])
def test_a_bare_import_loads_neither_torch_nor_lightning(package: str) -> None:
    heavy = "{'torch', 'lightning', 'numpy'} & set(sys.modules)"
    assert in_fresh_process(f"import sys, {package}; dir({package}); print(sorted({heavy}))") == "[]"


def test_routing_is_reachable_after_a_bare_import() -> None:
    assert in_fresh_process("import zoo; print(int(zoo.dtr.routing.task_masks(1152)[0].sum()))") == "921"


def test_every_sub_package_is_an_attribute() -> None:
    for name in SHARED | METHODS | MACHINERY:
        assert getattr(zoo, name).__name__ == f"zoo.{name}"


@pytest.mark.parametrize("package", [zoo, datamodules])
def test_public_names_resolve_and_are_listed(package: object) -> None:
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
        assert name in dir(package)


@pytest.mark.parametrize(
    ("package", "name", "near"), [(zoo, "DRT", "zoo.DTR"), (datamodules, "Digit", "datamodules.Digits")]
)
def test_an_unknown_name_is_refused_with_near_ones(package: object, name: str, near: str) -> None:
    with pytest.raises(AttributeError, match=f"has no '{name}'; did you mean .*{near}"):
        getattr(package, name)
