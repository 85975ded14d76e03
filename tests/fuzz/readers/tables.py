"""Tables of columns through their data module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes.tables import fake_table
from fuzz.forked import Reader

from datamodules import TableColumns


def read_table(path: Path) -> Any:
    data = TableColumns(str(path), batch_size=8)
    data.setup("fit")
    return [s.__getitems__([0, 1]) for s in (data.train_set, data.val_set, data.test_set)]


READERS = [Reader("a table of columns", fake_table, read_table)]
