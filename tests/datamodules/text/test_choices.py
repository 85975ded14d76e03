"""Questions with choices: the official layouts, one's own, shots, which tokens are scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.language import fake_choices
from torch import Tensor

from datamodules import MultipleChoice
from datamodules.text.choice_files import Question
from datamodules.text.tokenizers import document, train_tokenizer


def texts(ids: Tensor) -> str:
    return bytes(i - 3 for i in ids.tolist() if i > 2).decode()


def rows_of(data: MultipleChoice) -> dict[str, Any]:
    data.setup("test")
    found: dict[str, Any] = data.test_set.__getitems__(list(range(len(data.test_set))))
    return found


@pytest.mark.parametrize(
    ("layout", "question", "scored", "gold", "rows"),
    [
        ("hellaswag", "Removing ice: A man 0. stands. He then", " scrapes it", [0, 1, 0, 0], 8),
        ("piqa", "Question: How to open jar 0?\nAnswer:", " turn it", [1, 0], 4),
        ("commonsenseqa", "Question: Where is thing 0?\nAnswer:", " box", [0, 0, 1, 0, 0], 10),
        ("crows_pairs", "", "They said 0 more.", [1, 0], 4),
    ],
)  # fmt: skip
def test_official_layouts(
    tmp_path: Path, layout: Any, question: str, scored: str, gold: list[int], rows: int
) -> None:
    fake_choices(tmp_path, layout)
    data = MultipleChoice(layout, str(tmp_path), context=256)
    batch = rows_of(data)
    right = gold.index(1)
    assert len(batch["index"]) == rows
    assert batch["gold"][: len(gold)].int().tolist() == gold
    assert batch["question"].tolist() == [i // len(gold) for i in range(rows)]
    assert batch["choice"][: len(gold)].tolist() == [*range(len(gold))]
    assert texts(batch["input_ids"][right]) == question + scored
    assert texts(batch["labels"][right]) == scored
    assert int(batch["bytes"][right]) == len(scored.encode())
    assert int(batch["characters"][right]) == len(scored.lstrip())
    assert (batch["labels"][:, 0] == -100).all()
    if layout == "crows_pairs":
        with pytest.raises(ValueError, match="has no questions to train"):
            data.setup("fit")
    else:
        data.setup("fit")
        train = data.train_set.__getitems__([0])
        assert texts(train["labels"][0]).startswith(scored.split("0")[0][:2])


def test_a_test_without_answers_is_told_and_not_rows_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_choices(tmp_path, "hellaswag")
    batch = rows_of(MultipleChoice("hellaswag", str(tmp_path), context=256))
    assert bool(batch["gold"].any())
    assert "the test has no answers: val stands in for it" in capsys.readouterr().out


def own(root: Path, name: str = "q.jsonl", count: int = 30) -> Path:
    path = root / name
    if path.suffix == ".csv":
        rows = [f'"Question, {i}?",yes {i},"no\nnever {i}",,{"ab"[i % 2]}' for i in range(count)]
        path.write_text("question,A,B,C,answer\n" + "\n".join(rows) + "\n", encoding="utf-8")
    else:
        path.write_text("".join(
            json.dumps({"question": f"é {i}?", "choices": [f"yes {i}", f"no {i}"], "answer": i % 2}) + "\n"
            for i in range(count)))  # fmt: skip
    return path


@pytest.mark.parametrize("name", ["q.jsonl", "q.csv"])
def test_questions_of_ones_own(tmp_path: Path, name: str) -> None:
    data = MultipleChoice("files", str(own(tmp_path, name)), context=128, predict=str(own(tmp_path, name)))
    batch = rows_of(data)
    assert {s: len(q) for s, q in data.splits.items()} == {"train": 24, "val": 3, "test": 3}
    assert len(batch["index"]) == 6
    assert batch["gold"].tolist().count(True) == 3
    data.setup("predict")
    asked = next(iter(data.predict_dataloader()))
    assert len(data.predict_set) == 30
    assert asked["reference"][1] in ("no 1", "no\nnever 1")
    assert texts(asked["input_ids"][1]) == asked["prompt"][1]
    every = [q.text for questions in data.splits.values() for q in questions]
    assert len({*every}) == 30


def test_shots_come_from_the_training_split_and_from_the_seed_alone(tmp_path: Path) -> None:
    path = str(own(tmp_path))

    def asked(shots: int, seed: int = 0) -> list[str]:
        batch = rows_of(MultipleChoice("files", path, shots=shots, seed=seed, context=256))
        return [texts(row) for row in batch["input_ids"]]

    data = MultipleChoice("files", path, shots=2, context=256)
    first = asked(2)[0]
    *solved, question = first.split("\n\n")
    known = [f"{q.text} {q.choices[q.gold]}" for q in data.splits["train"]]
    assert len(solved) == 2
    assert all(s in known for s in solved)
    assert question == asked(0)[0]
    assert asked(2) == asked(2)
    assert asked(2, seed=1) != asked(2)
    batch = rows_of(data)
    assert texts(batch["labels"][0]) == " " + data.splits["test"][0].choices[0]
    with pytest.raises(ValueError, match=r"shots is 25, but .* has 24 to train"):
        asked(25)


def test_a_question_too_long_loses_its_front_and_a_choice_too_long_is_one_line(tmp_path: Path) -> None:
    data = MultipleChoice("files", str(own(tmp_path)), context=16)
    batch = data.rows([Question("q" * 99 + "end", ("abc", "defgh"), 1)], "test").__getitems__([0, 1])
    assert batch["input_ids"].shape == (2, 16)
    assert [texts(row) for row in batch["input_ids"]] == ["q" * 8 + "end abc", "q" * 6 + "end defgh"]
    assert [texts(row) for row in batch["labels"]] == [" abc", " defgh"]
    assert batch["bytes"].tolist() == [4, 6]
    with pytest.raises(ValueError, match=r"question 1: the choice 'z+' has 21 tokens, a row has 16"):
        data.rows([Question("q", ("z" * 20, "a"), 1)], "test")


def test_a_token_that_joins_question_and_choice_is_the_choices(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a b " * 50], 300, "byte_bpe", ("<pad>", "<s>", "</s>"), normalised=False)
    (tmp_path / "t.json").write_text(document(tokenizer))
    data = MultipleChoice("files", str(own(tmp_path)), context=64, tokenizer=str(tmp_path / "t.json"))
    batch = data.rows([Question("a b", ("a b", "b"), 0)], "test").__getitems__([0, 1])
    assert batch["bytes"].tolist() == [4, 2]
    assert tokenizer.decode(batch["labels"][0].clamp(min=0), skip_special_tokens=True) == " a b"


def test_generated_questions_have_the_real_line_among_others() -> None:
    data = MultipleChoice(most_evaluated=40, context=768)
    batch = rows_of(data)
    assert len(batch["index"]) == 160
    places = batch["choice"][batch["gold"]]
    assert int(torch.bincount(places, minlength=4).min()) >= 2
    questions = data.splits["test"]
    assert all(len({*q.choices}) == 4 for q in questions)
    assert not {q.text for q in questions} & {q.text for q in data.splits["train"]}
    again = MultipleChoice(most_evaluated=40, context=768)
    assert again.splits["test"] == questions


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("q.jsonl", '{"question": "x", "choices": ["a"]}', "'choices': .* are no two or more texts"),
        ("q.jsonl", '{"question": "x", "choices": ["a", 3]}', "no two or more texts"),
        ("q.jsonl", '{"question": "x", "choices": ["a", "b"], "answer": 2}', "'2' is none of the 2 choices"),
        ("q.jsonl", '{"question": "x", "choices": ["a", "b"], "answer": true}', "'True' is none of the 2"),
        ("q.jsonl", '{"choices": []}', "line 1: no field 'question'"),
        ("q.csv", "question,A,B,answer\nx,a,b,c\n", "line 2, 'answer': 'c' is none of the 2 choices"),
        ("q.csv", "question,A,B,answer\nx,a\n", "line 2: 2 cells, its first line has 4"),
        ("q.csv", "text,A,B\nx,a,b\n", "has no column 'question', only 'text', 'A', 'B'"),
        ("q.csv", "question,A\nx,a\n", "columns A: .* are no two or more texts"),
        ("q.csv", "question,A,B\n", "has no rows"),
        ("q.csv", "", "has no column 'question'"),
        ("q.txt", "x", "is no .jsonl nor .csv of questions"),
    ],
)
def test_bad_questions_are_one_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=said) as caught:
        MultipleChoice("files", str(tmp_path / name)).setup("test")
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    for layout, words in (("piqa", "train.jsonl; piqa is at"), ("files", "test.jsonl nor .csv")):
        with pytest.raises(FileNotFoundError, match=words):
            MultipleChoice(layout, str(tmp_path)).setup("test")  # type: ignore[arg-type]
    fake_choices(tmp_path, "piqa")
    (tmp_path / "valid-labels.lst").write_text("0\n")
    with pytest.raises(ValueError, match=r"valid-labels.lst has 1 lines, .*valid.jsonl has 2"):
        MultipleChoice("piqa", str(tmp_path)).setup("test")
