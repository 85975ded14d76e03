"""Knowledge graphs: queries both ways, what is known of them, files of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import KnowledgeGraph

TRIPLES = "oslo\tcapital_of\tnorway\nbergen\tlies_in\tnorway\noslo\tlies_in\tnorway\nlyon\tlies_in\tfrance\n"


def made(**settings: Any) -> KnowledgeGraph:
    data = KnowledgeGraph(batch_size=2, **settings)
    data.setup("fit")
    return data


def folder(root: Path, train: str = TRIPLES, valid: str = "", test: str = "") -> Path:
    root.mkdir(exist_ok=True)
    (root / "train.txt").write_text(train)
    (root / "valid.txt").write_text(valid or "paris\tlies_in\tfrance\n")
    (root / "test.txt").write_text(test or "nice\tlies_in\tfrance\n")
    return root


def test_the_embedded_graphs_have_their_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"umls": (135, 46, 5216, 652, 661), "kinships": (104, 25, 8544, 1068, 1074)}
    for name, (n, r, *counts) in sizes.items():
        data = made(graph=name)
        assert (data.num_entities, data.num_relations) == (n, r)
        assert [len(data.parts[s]) for s in ("train", "valid", "test")] == counts
        assert len(data.train_set) == 2 * counts[0]
        assert f"{name}: {n} entities, {r} relations" in capsys.readouterr().out


def test_each_triple_asks_both_ways_and_every_split_is_known(tmp_path: Path) -> None:
    data = made(graph="splits", root=str(folder(tmp_path)))
    assert data.entities == ["bergen", "france", "lyon", "nice", "norway", "oslo", "paris"]
    assert data.relations == ["capital_of", "lies_in"]
    train = data.train_set.__getitems__([(0, 0), (0, 1)])
    assert [train[k].tolist() for k in ("head", "relation", "tail")] == [[5, 4], [0, 2], [4, 5]]
    assert "known" not in train
    test = data.test_set.__getitems__([0, 1])  # nice lies in ?, and who lies in france
    assert test["known"].tolist() == [
        [False, True, False, False, False, False, False],
        [False, False, True, True, False, False, True],  # lyon of train, nice of test, paris of valid
    ]


def test_what_is_odd_about_splits_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = "oslo\tlies_in\tnorway\nnorway\thas\toslo\nnorway\thas\tbergen\n"
    root = folder(tmp_path, TRIPLES + "bergen\tlies_in\tnorway\n", test=again)
    made(graph="splits", root=str(root))
    said = capsys.readouterr().out
    assert "1 of 5 triples stand there more than once" in said
    assert "1 of 3 triples of test stand in the training triples too" in said
    assert "1 of 1 triples of valid have an entity that training never sees" in said
    assert "2 of 4 held-out pairs" not in said  # not more than half


def test_a_test_that_training_turns_round_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path, valid="norway\tcapital\toslo\n", test="norway\thas\tbergen\n")
    made(graph="splits", root=str(root))
    assert "2 of 2 held-out pairs are linked the other way round in training" in capsys.readouterr().out


def test_own_triples_are_split_so_that_everything_is_trained(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {(f"e{a}", f"r{b}", f"e{c}") for a, b, c in rng.integers(0, [12, 3, 12], (200, 3)).tolist()}
    path = tmp_path / "triples.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in sorted(rows)))
    data = made(graph="triples", triples=str(path))
    counts = [len(data.parts[s]) for s in ("train", "valid", "test")]
    assert counts == [len(rows) - 2 * int(0.1 * len(rows)), *[int(0.1 * len(rows))] * 2]
    every = np.concatenate(list(data.parts.values()))
    assert len(np.unique(every, axis=0)) == len(rows)
    assert {*data.parts["train"][:, [0, 2]].ravel().tolist()} == set(range(12))
    assert {*data.parts["train"][:, 1].tolist()} == {0, 1, 2}
    other = made(graph="triples", triples=str(path), seed=1)
    assert not np.array_equal(other.parts["test"], data.parts["test"])
    with pytest.raises(ValueError, match="can be held out"):
        made(graph="triples", triples=str(path), held_out=0.49)


def test_weights_keep_their_order_of_names(tmp_path: Path) -> None:
    names = ["paris", "oslo", "norway", "nice", "lyon", "france", "bergen", "rome"]
    data = made(
        graph="splits", root=str(folder(tmp_path)), entities=names, relations=["lies_in", "capital_of"]
    )
    assert data.parts["train"][0].tolist() == [1, 1, 2]
    assert data.num_entities == 8
    assert data.facts["entities"] == names
    with pytest.raises(ValueError, match=r"train.txt, line 1: 'oslo' is no entity of the 1 that"):
        made(graph="splits", root=str(tmp_path), entities=["norway"])


def test_queries_of_a_file_ask_for_either_end(tmp_path: Path) -> None:
    asked = tmp_path / "asked.txt"
    asked.write_text("oslo\tlies_in\t?\n?\tlies_in\tfrance\n")
    root = folder(tmp_path / "graph")
    data = made(graph="splits", root=str(root), queries=str(asked))
    batch = data.predict_set.__getitems__([0, 1])
    assert [batch[k].tolist() for k in ("head", "relation", "tail")] == [[5, 1], [1, 3], [-1, -1]]
    assert batch["known"][1].nonzero().flatten().tolist() == [2, 3, 6]
    for text, said in (
        (
            "oslo\tlies_in\tnorway\n",
            "line 1: a query has '[?]' in place of its head or of its tail, not of neither",
        ),
        ("?\tlies_in\t?\n", "not of both"),
        ("oslo\tin\t?\n", "line 1: 'in' is no relation of the 2"),
    ):
        asked.write_text(text)
        with pytest.raises(ValueError, match=said):
            made(graph="splits", root=str(root), queries=str(asked))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no triples"),
        ("a\tb\n", "line 1: 2 names between tabs"),
        ("a b c\n", "line 1: 1 names between tabs"),
        ("a\tr\tb\n\nc\tr\td\n", "line 2: empty, but lines follow"),
        ("a\tr\tb\na\t\tb\n", "line 2: 2 names"),
        ("a\tr\t?\n", "queries go into data.init_args.queries"),
    ],
)
def test_files_that_hold_no_triples_are_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        made(graph="splits", root=str(folder(tmp_path, text or "\n")))


def test_a_missing_file_says_the_layout(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train.txt; a graph with published splits is a folder"):
        made(graph="splits", root=str(tmp_path))


def test_masks_of_an_unknown_query_are_empty() -> None:
    data = made()
    batch = data.val_set.known.mask(np.array([0]), np.array([2 * 46 - 1]))
    assert batch.shape == (1, 135)
    assert batch.dtype == torch.bool
