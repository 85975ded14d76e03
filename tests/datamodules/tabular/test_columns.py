"""Columns of a user's table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.tables import fake_table

from datamodules import TableColumns


def read(table: Path, **settings: Any) -> TableColumns:
    data = TableColumns(str(table), batch_size=8, **settings)
    data.setup("fit")
    return data


def test_columns_are_split_and_standardised_by_the_training_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = read(fake_table(tmp_path), noises=[1.0, 0.25])
    assert "information of a, b about c, 60 rows" in capsys.readouterr().out
    assert (data.dim, data.y_dim, data.subviews) == (2, 1, 3)
    sets = (data.train_set, data.val_set, data.test_set)
    assert [len(s) for s in sets] == [36, 12, 12]
    assert sorted(np.concatenate([s.rows for s in sets])) == list(range(60))
    batch = data.train_set.__getitems__([(0, i) for i in range(36)])
    x = batch["subviews"][:, -1]
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(dim=0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    raw = np.loadtxt(tmp_path / "table.csv", delimiter=",", skiprows=1)
    assert data.means is not None
    assert data.scales is not None
    row = (raw[int(batch["index"][3])] - data.means) / data.scales
    np.testing.assert_allclose(torch.cat([x[3], batch["y"][3]]), row, atol=1e-5)
    other = data.train_set.__getitems__([(1, 3)])["subviews"][0]
    assert torch.equal(other[2], x[3])
    assert not torch.equal(other[0], batch["subviews"][3, 0])  # the noise is fresh in every epoch
    held = data.val_set.__getitems__([2])
    assert torch.equal(held["subviews"], data.val_set.__getitems__([2])["subviews"])


def test_weights_bring_their_scale_and_columns_along(tmp_path: Path) -> None:
    data = read(fake_table(tmp_path), x=["b"], means=[1.0, 2.0], scales=[2.0, 4.0])
    assert (data.dim, data.y_dim) == (1, 1)
    assert data.facts == {"x": ["b"], "y": ["c"], "means": [1.0, 2.0], "scales": [2.0, 4.0]}


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("a,b\n1,2\n3,x\n" * 9, {}, "line 3, column 'b': 'x' is no number"),
        ("a,b\n1,nan\n", {}, "no finite number"),
        ("a,b\n1,2,3\n", {}, "line 2: 3 cells, its first line has 2"),
        ("a,b\n", {}, "no rows"),
        ("0.5,-2\n" * 20, {}, "its first line '0.5,-2' is numbers; put a line with the names"),
        ("a,a\n1,2\n", {}, "two columns 'a'"),
        ("a\n1\n2\n", {}, "must be columns, each once"),
        ("a,b\n1,2\n2,3\n", {}, "rows leave 0"),
        ("a,b\n" + "".join(f"{i},7\n" for i in range(20)), {}, "column 'b' has one value"),
        ("a,b\n1,2\n", {"x": ["z"]}, "no column 'z'"),
        ("a,b\n1,2\n", {"x": ["b"]}, "each once"),
        (
            "a,b\n" + "".join(f"{i},{i * i}\n" for i in range(20)),
            {"means": [1.0], "scales": [1.0]},
            "for 2 columns",
        ),
    ],
)
def test_one_line_says_what_is_wrong_with_a_table(
    text: str, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        read(path, **settings)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_not_there_and_settings_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.csv"):
        read(tmp_path / "no.csv")
    for settings, said in (({"held_out": 0.5}, "nothing is left"), ({"delimiter": "||"}, "one character"),
                           ({"means": [1.0]}, "or neither")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            TableColumns(**settings)  # type: ignore[arg-type]


def test_a_number_too_large_for_single_precision_is_named(tmp_path: Path) -> None:
    path = fake_table(tmp_path)
    row = int(read(path).test_set.rows[3])
    lines = path.read_text().splitlines()
    lines[row + 1] = "1e300,0.5,0.5"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=f"line {row + 2}, column 'a': 1e\\+300 lies too many deviations"):
        read(path)


def test_rows_that_stand_there_twice_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fake_table(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, *lines[1:4]]) + "\n")
    read(path)
    assert "3 of 63 rows stand there more than once" in capsys.readouterr().out
