"""Every reader of foreign files against damaged ones.

``python tests/fuzz/test_fuzz.py [--manifest FILE]`` prints the table.
"""

from __future__ import annotations

import importlib.util
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


if __name__ == "__main__":
    rows = [tried(reader, MUTATIONS) for reader in all_readers()]
    tables.show(__file__, {"table": table(rows), "mutations": MUTATIONS})
    for row in rows:
        for which, what in row.bad.items():
            print(f"{row.name}, {which}: {what}")
