"""Every reader of foreign files against damaged ones.

``python tests/fuzz/test_fuzz.py [--manifest FILE]`` prints the table; with ``--add`` the rows that the file
has stay as they are, and readers without a row are tried.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import tables
from fuzz.forked import Reader, outcome, table, tried

READERS_FOLDER = Path(__file__).parent / "readers"
MUTATIONS = 200


def all_readers() -> list[Reader]:
    """The ``READERS`` of every file in ``readers/``."""
    found: list[Reader] = []
    for file in sorted(READERS_FOLDER.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"fuzz_readers_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        found += module.READERS
    return found


def _fails(how: str) -> Any:
    def read(path: Path) -> Any:
        if how == "memory":
            return bytearray(3 * 2**30)
        if how == "two lines":
            raise ValueError(f"{path}\nand more")
        if how == "no name":
            raise ValueError("something is wrong")
        if how == "traceback":
            raise KeyError(path)
        if how == "crash":
            import ctypes

            ctypes.string_at(0)
        if how == "nan":
            return {"x": [float("nan")]}
        raise ValueError(f"{path} is damaged")

    return read


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("memory", "MemoryError"),
        ("two lines", "more than a line"),
        ("no name", "names no file"),
        ("traceback", "KeyError"),
        ("crash", "crashed: SIG"),
        ("nan", "NaN or infinity enters"),
        ("refusal", "refused"),
    ],
)
def test_what_a_bad_reader_does_is_seen(how: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"1 2 3")
    assert outcome(Reader(how, lambda folder: path, _fails(how)), path).startswith(found)


@pytest.mark.slow
@pytest.mark.parametrize("reader", all_readers(), ids=lambda reader: reader.name)
def test_damaged_files_are_read_or_refused_in_a_line(reader: Reader) -> None:
    row = tried(reader, MUTATIONS)
    assert not row.bad, "\n".join(f"{k}: {v}" for k, v in row.bad.items())
    assert row.read + row.refused == MUTATIONS


def lines_of(manifest: Path) -> dict[str, str]:
    """Reader -> its line in the table of a manifest."""
    (found,) = (e["value"] for e in json.loads(manifest.read_text()) if e["metric"] == "table")
    return {line.split("|")[1].strip(): line for line in found.splitlines()[2:]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--add", action="store_true")
    given = parser.parse_args()
    known = lines_of(given.manifest) if given.add else {}
    rows = {r.name: tried(r, MUTATIONS) for r in all_readers() if r.name not in known}
    lines = dict(zip(rows, table(list(rows.values())).splitlines()[2:], strict=True)) | known
    shown = [*table([]).splitlines(), *(lines[reader.name] for reader in all_readers())]
    sys.argv = [a for a in sys.argv if a != "--add"]
    tables.show(__file__, {"table": "\n".join(shown), "mutations": MUTATIONS})
    for name, row in rows.items():
        for which, what in row.bad.items():
            print(f"{name}, {which}: {what}")
