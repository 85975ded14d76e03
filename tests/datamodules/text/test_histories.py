"""Histories of dialogues: Wizard of Wikipedia's layout, made facts, what a batch has, what is refused."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from fakes.wizard import TURNS, fake_wizard

from datamodules import DialogueHistories
from datamodules.text import facts
from datamodules.text.wizard import read_wizard


def small(**settings: Any) -> DialogueHistories:
    given = {"model": "words", "dialogues": 400, "held_dialogues": 30, "batch_size": 8, "longest": 24}
    return DialogueHistories(**{**given, "history_tokens": 64, **settings})


def test_every_turn_of_the_wizard_with_two_before_it_is_an_example(tmp_path: Path) -> None:
    """A wizard that begins answers at turns 2 and 4 of six, else at 3 and 5."""
    found = read_wizard(fake_wizard(tmp_path, 2) / "train.json")
    assert [len(e.history) for e in found] == [2, 4, 3, 5]
    assert found[1].reply == "what about a red house , number 4 of 0 ?"
    assert found[1].history == tuple(f"what about a red house , number {i} of 0 ?" for i in range(4))
    assert TURNS == 6


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no JSON"),
        ({"dialog": []}, "no list of dialogues"),
        ([{"turns": []}], "dialogue 0: it has no list of turns"),
        ([{"dialog": [{"speaker": "0_Wizard"}]}], "dialogue 0: a turn needs the texts"),
        ([{"dialog": [{"speaker": "2_Judge", "text": "hm"}]}], "is no Wizard and no Apprentice"),
        ([{"dialog": [{"speaker": "0_Wizard", "text": "hi"}]}], "no wizard answers to two or more turns"),
        ([{"dialog": [{"speaker": "0_Wizard", "text": "\ud800"}]}], "half of a character"),
    ],
)
def test_files_of_another_form_are_refused(content: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=said):
        read_wizard(path)


def test_turns_without_a_word_are_left_out(tmp_path: Path) -> None:
    said = [
        ("0_Wizard", "a"),
        ("1_Apprentice", " "),
        ("1_Apprentice", "b"),
        ("0_Wizard", "c"),
        ("0_Wizard", ""),
    ]
    turns = [{"speaker": s, "text": t} for s, t in said]
    (tmp_path / "train.json").write_text(json.dumps([{"dialog": turns}]))
    (found,) = read_wizard(tmp_path / "train.json")
    assert (found.history, found.reply) == (("a", "b"), "c")


def test_held_out_dialogues_are_of_random_or_unseen_topics(tmp_path: Path) -> None:
    fake_wizard(tmp_path)
    (tmp_path / "valid_topic_split.json").write_text(
        json.dumps([{"dialog": [{"speaker": "0_Wizard", "text": t} for t in ("x", "y", "z")]}])
    )
    for topics, count in (("random", 16), ("topic", 1)):
        data = DialogueHistories("wizard", str(tmp_path), topics, vocab_size=300, batch_size=4)  # type: ignore[arg-type]
        data.setup("validate")
        assert len(data.val_set) == count
    (tmp_path / "train.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*train.json; Wizard of Wikipedia is parl.ai"):
        DialogueHistories("wizard", str(tmp_path)).setup("fit")


def test_a_batch_has_history_last_turn_and_response() -> None:
    data = small()
    data.setup("test")
    batch, eos = data.test_set.__getitems__([3, 0]), data.eos_id

    def text(ids: Any) -> str:
        return data.tokenizer.decode(ids).replace("?", " ?").replace(".", " .")  # the decoder's spaces

    for row in range(2):
        turns = batch["context"][row].split("\n")
        n, r, y = (int(batch[f"{k}_length"][row]) for k in ("history", "recent", "response"))
        history = batch["history"][row, :n].tolist()
        assert history.count(eos) == len(turns) == 4
        assert history[-r:] == batch["recent"][row, :r].tolist()
        assert text(batch["recent"][row, : r - 1]) == turns[-1]
        assert text(batch["response"][row, : y - 1]) == batch["reference"][row]
        assert int(batch["response"][row, y - 1]) == eos
        assert batch["answer"][row] in turns[0].split()
        assert batch["answer"][row] not in " ".join(turns[1:]).split()
        assert batch["answer"][row] in batch["reference"][row].split()
    assert batch["index"].tolist() == [3, 0]


def test_long_histories_keep_their_latest_whole_turns(capsys: pytest.CaptureFixture[str]) -> None:
    data = small(longest=8, history_tokens=20)
    data.setup("test")
    batch = data.test_set.__getitems__([0])
    n, r = int(batch["history_length"][0]), int(batch["recent_length"][0])
    assert r <= 9
    assert r < n <= 20
    assert batch["history"][0, n - r : n].tolist() == batch["recent"][0, :r].tolist()
    said = capsys.readouterr().out
    assert "have more than 8 tokens; so many are kept" in said
    assert "30 of 30 histories of the test split have more than 20 tokens" in said


def test_the_answer_s_information_is_where_it_is_said_to_be() -> None:
    """The last turn tells the kind, 1 of 3; the first one which of 16, equally often."""
    found, words = facts.fact_dialogues("train", 6000)
    kinds = {kind: facts.KINDS[kind][0].split() for kind in facts.KINDS}
    assert all(len({*values}) == facts.VALUES for values in kinds.values())
    assert len({w for values in kinds.values() for w in values}) == 3 * facts.VALUES
    for e, word in zip(found, words, strict=True):
        (kind,) = [k for k, v in kinds.items() if word in v]
        assert e.history[-1] in facts.KINDS[kind][2]  # the question tells the kind and no more
        assert e.reply == facts.KINDS[kind][3].format(word)
    first = [e.history[0] for e in found]
    orders = {tuple(sorted(kinds, key=lambda k: text.index(facts.KINDS[k][1][:-3]))) for text in first}
    assert len(orders) == 6  # the place of a fact tells nothing
    counts = [words.count(w) for values in kinds.values() for w in values]
    expected = 6000 / 48
    assert sum((c - expected) ** 2 / expected for c in counts) < 95  # chi squared of 47, one in 10,000
    assert pytest.approx((math.log(3), math.log(16))) == (facts.FIRST, facts.CONDITIONAL)
    parts = {
        split: {e.history[0] for e in facts.fact_dialogues(split, 3000)[0]}
        for split in ("train", "val", "test")
    }

    def told(text: str) -> frozenset[str]:
        return frozenset(w for w in text.split() if any(w in v for v in kinds.values()))

    sets = {split: {told(t) for t in texts} for split, texts in parts.items()}
    assert not sets["train"] & (sets["val"] | sets["test"])
    assert not sets["val"] & sets["test"]


def test_distractors_are_responses_of_others() -> None:
    data = small(distractors=True)
    data.setup("fit")
    keys = [(e, i) for e in range(3) for i in range(40)]
    batch = data.train_set.__getitems__(keys)
    rows = [r[:n].tolist() for r, n in zip(batch["distractor"], batch["distractor_length"], strict=True)]
    again = data.train_set.__getitems__(keys)["distractor"]
    assert again.equal(batch["distractor"])
    others = [data.train_set._other(e, i) for e, i in keys]
    assert all(o != i for o, (_, i) in zip(others, keys, strict=True))
    assert rows[0] != rows[40] or rows[1] != rows[41]  # another epoch, another one
    few = small(distractors=True, dialogues=3, batch_size=2)
    few.setup("fit")
    drawn = {(i, few.train_set._other(e, i)) for e in range(20) for i in range(3)}
    assert drawn == {(i, j) for i in range(3) for j in range(3) if i != j}
    data = small()
    data.setup("fit")
    assert "distractor" not in data.train_set.__getitems__([(0, 0)])


def test_own_dialogues_and_typed_ones(tmp_path: Path) -> None:
    row = {
        "history": ["hello there", "hi , i am from oslo"],
        "source": "where am i from ?",
        "target": "from oslo",
    }
    for split in ("train", "val"):
        (tmp_path / f"{split}.jsonl").write_text((json.dumps(row) + "\n") * 8)
    data = DialogueHistories(
        "jsonl", str(tmp_path), vocab_size=300, batch_size=4, predict=["i am ann", "hello", "who am i ?"]
    )
    for stage in ("fit", "predict"):
        data.setup(stage)
    batch = data.predict_set.__getitems__([0])
    assert batch["context"] == ["i am ann\nhello\nwho am i ?"]
    assert "reference" not in batch
    assert data.val_set.__getitems__([0])["reference"] == ["from oslo"]
    copy = pickle.loads(pickle.dumps(data.train_set))  # what a spawned loader gets
    assert not copy.exchanges
    assert copy.__getitems__([(0, 1)])["history"].equal(data.train_set.__getitems__([(0, 1)])["history"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layout": "wizard", "dialogues": 4}, "which layout: wizard does not"),
        ({"root": "/x"}, "which layout: facts does not"),
        ({"topics": "topic"}, "which layout: facts does not"),
        ({"tokenizer": "x", "vocab_size": 9}, "vocab_size is 9, which tokenizer: x"),
        ({"layout": "lines"}, "layout must be one of"),
        ({"longest": 64, "history_tokens": 64}, "no room for one turn"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DialogueHistories(**settings)
