"""Two groups of columns of a user's table, whose mutual information is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.loaders import BatchItems, SplitModule
from datamodules.loading.ranges import Finite, Many, Part, Positive, Seed, Workers, check_ranges
from datamodules.loading.sampling import Keys, batch_keys, global_seed, item_seeds
from datamodules.loading.tables import cut, is_number, numbers, read_rows
from datamodules.loading.terminal import say
from datamodules.tabular.draws import normals, uniforms
from datamodules.tabular.known_information import corrupted, falling

Array = np.ndarray[Any, Any]
_HELD = 2**33 + 3
_FARTHEST = 1e15  # its square, and products of such, are still numbers of single precision


class RowItems(BatchItems):
    """Rows of x and y, x with noise that is a function of (seed, epoch, index).

    Args:
        x: (N, d), standardised.
        y: (N, e), likewise.
        rows: the rows of this set.
        noises: deviations of the subviews before x itself.
        stream: of the noise; None is the training's, which has the global seed.
    """

    def __init__(
        self, x: Array, y: Array, rows: Array, noises: list[float], stream: int | None = None
    ) -> None:
        self.x, self.y, self.rows, self.noises, self.stream = x, y, rows, noises, stream

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        epochs, index = batch_keys(keys)
        rows = self.rows[index]
        stream = global_seed() if self.stream is None else self.stream
        u = uniforms(item_seeds(stream, epochs, rows), len(self.noises) * self.x.shape[1])
        views = corrupted(self.x[rows], self.noises, normals(u))
        return {
            "subviews": torch.from_numpy(views).float(),
            "y": torch.from_numpy(self.y[rows]).float(),
            "index": torch.from_numpy(rows),
        }


class TableColumns(SplitModule):
    """Columns x and y of a table of numbers, for an estimate of I(x; y) on rows that training never sees.

    Batch: ``subviews`` float32 (B, n, d), x with noise of each of ``noises``, then x itself; ``y`` float32
    (B, e); ``index`` int64 (B,), the rows of the file from 0. Columns are standardised by the training rows,
    which leaves the information as it is.

    Args:
        table: text file; its first line names the columns, all others are numbers.
        x: names of the columns of x; null is all but those of y.
        y: names of the columns of y; null is the last one.
        delimiter: between the cells.
        noises: deviations of the noise on x_1 .. x_{n-1}, in those of x, falling; null is one of 1.
        held_out: share of the rows for validation, and as much for the test.
        seed: of the split.
        means: of the columns of x, then of y; null takes those of the training rows.
        scales: deviations, likewise.
        batch_size: global training batch, over all devices.
        eval_batch_size: batch of validation and test, whose rows are each other's negatives.
        num_workers: loader processes.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("x", "y", "noises", "means", "scales")
    split_of_weights: ClassVar[tuple[str, ...]] = ("held_out", "seed")

    def __init__(
        self,
        table: str = "table.csv",
        x: list[str] | None = None,
        y: list[str] | None = None,
        delimiter: str = ",",
        noises: list[Positive] | None = None,
        held_out: Part = 0.2,
        seed: Seed = 0,
        means: list[Finite] | None = None,
        scales: list[Positive] | None = None,
        batch_size: Many = 128,
        eval_batch_size: Many = 128,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(TableColumns, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        if held_out >= 0.5:
            raise ValueError(f"data.init_args.held_out is {held_out} twice, nothing is left to train on")
        if len(delimiter) != 1:
            raise ValueError(f"data.init_args.delimiter must be one character, got {delimiter!r}")
        if (means is None) != (scales is None):
            raise ValueError("give both data.init_args.means and data.init_args.scales, or neither")
        self.table, self.x, self.y, self.delimiter = Path(table), x, y, delimiter
        self.noises, self.held_out, self.seed = falling(noises), held_out, seed
        self.means, self.scales = means, scales
        self.subviews = len(self.noises) + 1
        self.dim: int | None = None if x is None else len(x)
        self.y_dim: int | None = 1 if y is None else len(y)
        self.truth = None
        self.facts: dict[str, Any] = {}

    def setup(self, stage: str) -> None:
        values, names, count = self._read()
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(self.seed)).numpy()
        held = int(self.held_out * len(values))
        if held < 2:
            raise ValueError(
                f"{self.table}: {len(values)} rows leave {held} for the test with data.init_args.held_out "
                f"{self.held_out}, which needs 2"
            )
        parts = {"test": order[:held], "val": order[held : 2 * held], "train": order[2 * held :]}
        values = self._standardised(values, parts["train"], names)
        x, y = values[:, :count], values[:, count:]
        self.dim, self.y_dim = count, len(names) - count
        self.facts = {"x": names[:count], "y": names[count:], "means": self.means, "scales": self.scales}
        self.train_set = RowItems(x, y, parts["train"], self.noises)
        self.val_set, self.test_set = (
            RowItems(x, y, np.sort(parts[p]), self.noises, _HELD) for p in ("val", "test")
        )

    def _read(self) -> tuple[Array, list[str], int]:
        """Columns of x, then of y; their names; the number of those of x."""
        rows = read_rows(self.table, self.delimiter)
        _, header = next(rows, (0, []))
        if header and all(map(is_number, header)):
            raise ValueError(
                f"{self.table}: its first line {cut(','.join(header), 80)} is numbers; put a line with the "
                "names of the columns before it"
            )
        for name in [name for name in header if header.count(name) > 1][:1]:
            raise ValueError(f"{self.table} has two columns {cut(name)}")
        y = header[-1:] if self.y is None else self.y
        x = [name for name in header if name not in y] if self.x is None else self.x
        for name in [*x, *y]:
            if name not in header:
                raise ValueError(
                    f"{self.table} has no column {cut(name)}; its first line is {cut(','.join(header), 80)}"
                )
        if not x or not y or set(x) & set(y) or len({*x, *y}) < len(x) + len(y):
            raise ValueError(
                f"{self.table}: x {x} and y {y} must be columns, each once; set data.init_args.x and y"
                f"{'' if len(header) > 1 else ', or data.init_args.delimiter'}"
            )
        places = [header.index(name) for name in [*x, *y]]

        def chosen() -> Any:
            for number, cells in rows:
                if len(cells) != len(header):
                    raise ValueError(
                        f"{self.table}, line {number}: {len(cells)} cells, its first line has {len(header)}"
                    )
                yield number, [cells[place] for place in places]

        values = numbers(self.table, chosen(), [*x, *y])
        if not len(values):
            raise ValueError(f"{self.table} has no rows behind its first line")
        repeated = len(values) - len(np.unique(values, axis=0))
        if repeated:
            say(
                f"{self.table}: {repeated:,} of {len(values):,} rows stand there more than once; copies on "
                "both sides of the split make an estimate too high"
            )
        say(f"{self.table}: information of {', '.join(x)} about {', '.join(y)}, {len(values):,} rows")
        return values, [*x, *y], len(x)

    def _standardised(self, values: Array, train: Array, names: list[str]) -> Array:
        if self.means is None or self.scales is None:
            self.means, scales = values[train].mean(axis=0).tolist(), values[train].std(axis=0)
            flat = ~(scales > 1e-12 * np.abs(values[train]).max(axis=0)) | ~np.isfinite(scales)
            for place in np.flatnonzero(flat)[:1]:
                raise ValueError(
                    f"{self.table}: column {cut(names[place])} has one value in all training rows, or "
                    "numbers too large to have a deviation; leave it out or scale it"
                )
            self.scales = scales.tolist()
        if not len(self.means) == len(self.scales or ()) == len(names):
            raise ValueError(
                f"data.init_args.means has {len(self.means)} and scales {len(self.scales or ())} numbers for "
                f"{len(names)} columns"
            )
        with np.errstate(over="ignore"):
            found = np.asarray((values - self.means) / np.asarray(self.scales))
        for row, place in np.argwhere(~(np.abs(found) < _FARTHEST))[:1]:
            raise ValueError(
                f"{self.table}, line {row + 2}, column {cut(names[place])}: {values[row, place]:g} lies "
                "too many deviations from the mean of the training rows for single precision; correct it or "
                "leave it out"
            )
        return found
