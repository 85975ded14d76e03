"""The one table of scores that every classifier writes."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch

from zoo.reports import class_names_of, write_scores


def test_one_class_per_item_is_named_and_later_batches_append(tmp_path: Path) -> None:
    path, classes = tmp_path / "new" / "scores.csv", ["cat", "dog"]
    write_scores(path, torch.tensor([[0.25, 0.75]]), classes, [7], torch.tensor([0]), ["val"])
    write_scores(path, torch.tensor([[0.5, 0.5]]), classes, ["a.png"], append=True)
    assert path.read_text().splitlines() == [
        "name,split,label,prediction,score,cat,dog",
        "7,val,cat,dog,0.750000,0.250000,0.750000",
        "a.png,,,cat,0.500000,0.500000,0.500000",
    ]


def test_several_labels_and_groups_are_joined(tmp_path: Path) -> None:
    path, classes = tmp_path / "scores.csv", ["a", "b", "c"]
    probability = torch.tensor([[0.875, 0.25, 0.75], [0.125, 0.5, 0.25]])
    write_scores(path, probability, classes, [0, 1], torch.tensor([[0, 1, 1], [0, 0, 0]]), several=True)
    assert [line.split(",")[:5] for line in path.read_text().splitlines()[1:]] == [
        ["0", "", "b;c", "a;c", "0.875000;0.750000"],
        ["1", "", "", "", ""],
    ]
    write_scores(path, torch.tensor([[0.25, 0.75, 1.0]]), classes, [0], torch.tensor([[0, 0]]), groups=[2, 1])
    assert path.read_text().splitlines()[1].startswith("0,,a;c,b;c,0.750000;1.000000,")


def test_an_unknown_label_is_no_class_and_names_fit_the_classes(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.csv", torch.tensor([[0.25, 0.75]]), ["a", "b"], [0], torch.tensor([-1]))
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].startswith("0,,,b,0.750000,")
    write_scores(tmp_path / "scores.csv", torch.tensor([[0.25, 0.75]]), ["label", "b"], [0])
    assert (
        (tmp_path / "scores.csv").read_text().startswith("name,split,label,prediction,score,class label,b\n")
    )
    data = mock.Mock(class_names=["a", "b", "c"])
    module = mock.Mock(_trainer=mock.Mock(datamodule=data))
    assert class_names_of(module, 3) == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"num_classes is 2, but the data name 3 classes \(a, b, c\)"):
        class_names_of(module, 2)


def test_many_classes_have_the_best_five(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    probability = torch.arange(41.0)[None] / 64
    write_scores(path, probability, [f"n{c}" for c in range(41)], ["x"])
    head, row = (line.split(",") for line in path.read_text().splitlines())
    assert head[5:] == [c for i in range(1, 6) for c in (f"top{i}", f"score{i}")]
    assert row[3:] == ["n40", "0.625000", *(x for c in range(40, 35, -1) for x in (f"n{c}", f"{c / 64:.6f}"))]
