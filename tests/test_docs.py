"""Docs and README: every number in a table comes from the manifest or is marked as the paper's."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from zoo.evidence import manifest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "pages").glob("*.md"))
RESULTS = sorted((ROOT / "docs" / "results").glob("*.json"))

_spec = importlib.util.spec_from_file_location("results_hook", ROOT / "docs" / "results_hook.py")
assert _spec is not None
assert _spec.loader is not None
hook = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hook)


def unaccounted_numbers(text: str) -> list[str]:
    """Cells of tables that are a bare number: not a placeholder, not in a block marked as the paper's."""
    ours = re.sub(r"<!-- paper -->.*?<!-- /paper -->", "", text, flags=re.S)
    cells = [
        c.strip() for line in ours.splitlines() if line.startswith("|") for c in line.strip("|").split("|")
    ]
    return [
        c
        for c in cells
        if re.fullmatch(r"[-+]?[\d.,]+( ?(%|s|min|x|MB|GiB|samples/s))?", c) and any(d.isdigit() for d in c)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_tables_take_their_numbers_from_the_manifest(page: Path) -> None:
    assert unaccounted_numbers(page.read_text()) == []
    hook.fill(page.read_text())  # raises for a number that no command made


def test_readme_table_numbers_are_in_the_manifest() -> None:
    entries = [entry for path in RESULTS for entry in manifest.read(path)]
    values = {entry["value"] for entry in entries if isinstance(entry["value"], int | float)}
    for cell in unaccounted_numbers((ROOT / "README.md").read_text()):
        digits = len(cell.partition(".")[2])
        assert any(f"{value:.{digits}f}" == cell for value in values), f"{cell} is in no docs/results file"


def test_check_finds_a_number_without_an_entry() -> None:
    assert unaccounted_numbers("| a | 3.14 |\n|---|---|") == ["3.14"]
    assert unaccounted_numbers("<!-- paper -->\n| 2.27 |\n<!-- /paper -->\n| {{ x/y }} |") == []
    with pytest.raises(KeyError, match="no results file"):
        hook.fill("{{ nowhere/metric }}")


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_manifest_entries_are_complete(path: Path) -> None:
    for entry in manifest.read(path):
        assert entry["command"].startswith(("zoo ", "pytest ", "python tests/benchmarks/"))
        assert entry["versions"]["torch"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", entry["date"])


def test_pages_name_tests_that_exist() -> None:
    code = "".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py"))
    named = {n for page in PAGES for n in re.findall(r"`(test_\w+)`", page.read_text())}
    assert named
    assert [n for n in sorted(named) if f"def {n}(" not in code] == []


def test_readme_commands_use_the_constraints() -> None:
    commands = [
        line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("python3 -m venv")
    ]
    assert len(commands) == 2
    assert all("-c constraints.txt" in c for c in commands)


def test_no_machine_paths_in_docs_or_configs() -> None:
    files = [*PAGES, ROOT / "README.md", *(ROOT / "configs").rglob("*.yaml"), *RESULTS]
    assert [f.name for f in files if re.search(r"(/work/|/root/|/tmp/|/home/)", f.read_text())] == []


def test_update_replaces_an_entry_of_the_same_metric_and_command(tmp_path: Path) -> None:
    entry = {
        "metric": "m",
        "value": 1.0,
        "seeds": [0],
        "command": "zoo test",
        "versions": {},
        "date": "2026-01-01",
    }
    path = tmp_path / "r.json"
    manifest.update(path, [entry, {**entry, "metric": "n"}])
    manifest.update(path, [{**entry, "value": 2.0}])
    assert {e["metric"]: e["value"] for e in manifest.read(path)} == {"m": 2.0, "n": 1.0}
