"""Dialogues and sentence pairs: layouts, templates, batches, what is refused."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from fakes.pairs import persona_chat, sentence_pairs
from lightning.pytorch import LightningModule
from quiet import quiet_trainer

from datamodules import Dialogues, DullReplies, ParallelText
from datamodules.text.catalogues import catalogue_pairs, clean, read_catalogue
from datamodules.text.dull import WORDS
from datamodules.text.exchanges import DialogueTemplate, Exchange, exchanges_of
from datamodules.text.pair_files import of_hub, read_chitchat, read_pairs, read_parlai
from datamodules.text.records import package_folder
from datamodules.text.tokenizers import token_ids

A, B, MASK = 4, 5, 6


def test_a_dialogue_becomes_the_streams_of_both_networks() -> None:
    template = DialogueTemplate(longest=9, history=9, tags=(A, B, MASK))
    row = template.row([[11], [21, 22], [12], [23]], [13, 14], [[90], [91]])
    # persona ... <b> b0 <a> a1 <b> b1 ... : the last is always <b>'s
    assert row.source == [90, 91, A, 11, B, 21, 22, A, 12, B, 23, A, MASK]
    assert row.context == [90, 91, A, 11, B, 21, 22, A, 12, B, MASK, A]
    assert (row.target, row.recover) == ([13, 14], [23])
    short = DialogueTemplate(longest=1, history=2, tags=(A, B, MASK)).row([[11], [21, 22]], [13, 14], [])
    assert (short.source, short.context) == ([A, 11, B, 21, A, MASK], [A, 11, B, MASK, A])
    assert (short.target, short.recover) == ([13], [21])


def test_batches_have_ends_where_they_belong() -> None:
    data = DullReplies(batch_size=4, train_pairs=8, test_pairs=50)
    data.setup("fit")
    data.setup("test")
    assert (data.vocab_size, data.pad_id, data.bos_id, data.eos_id) == (WORDS, 1, 2, 3)
    batch = next(iter(data.train_dataloader()))
    assert {*batch} == {"source", "target", "context", "recover", "index"}
    for name in ("target", "recover"):
        assert (batch[name][:, 0] == 2).all()
        assert ((batch[name] == 3).sum(dim=1) == 1).all()
    assert not ((batch["source"] == 2) | (batch["source"] == 3)).any()
    assert batch["context"].shape == (4, 0)
    tested = next(iter(data.test_dataloader()))
    assert all(w == f"answer{t}" for t, w in zip(tested["topic"].tolist(), tested["topic_word"], strict=True))
    share = sum(r == "i do not know" for r in tested["reference"]) / 50
    assert 0.4 < share < 0.8
    assert data.source_entropy == pytest.approx(4.9698, abs=1e-4)


def test_personachat_as_parlai_has_it(tmp_path: Path) -> None:
    persona_chat(tmp_path, 3)
    rows = read_parlai(tmp_path / "train_self_original.txt")
    assert len(rows) == 9
    assert rows[4].persona == ("i have a green house .", "i like green tea .")
    assert rows[4].history == ("what is green 0 ?", "my house is green , number 0 .", "what is green 1 ?")
    assert rows[4].candidates[-1] == rows[4].reply == "my house is green , number 1 ."
    data = Dialogues("parlai", str(tmp_path), history=3, vocab_size=300, batch_size=4, eval_batch_size=5)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch["candidates"].shape[:2] == (5, 5)
    assert batch["gold"].tolist() == [4] * 5
    assert batch["history"][1].count("\n") == 2
    again = data.tokenizer.decode([t for t in batch["recover"][0].tolist() if t > 6])
    assert again == "what is red 0 ?"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("what ?\thello", "line 1: begins with no number"),
        ("1 what ?", "line 1: has no response after a tab"),
        ("1 what ?\t", "line 1: has no response after a tab"),
        ("1 what ?\thello\t\tbye|no", "the response is not among its candidates"),
        ("1 your persona: i am .", "holds no dialogue"),
        ("²3 what ?\thello", "begins with no number"),
    ],
)
def test_other_lines_are_refused(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "train_self_original.txt"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=said) as caught:
        read_parlai(path)
    assert path.name in str(caught.value)


def test_both_personachats_of_the_hub() -> None:
    turn = {"candidates": ["no", "yes"], "history": ["is it ?"]}
    flat = {"personality": ["i am ."], **turn, "conv_id": 0}
    nested = {"personality": ["i am ."], "utterances": [turn, turn]}
    wanted = Exchange(("is it ?",), "yes", ("i am .",), ("no", "yes"))
    assert list(of_hub(flat, "x")) == [wanted]
    assert list(of_hub(nested, "x")) == [wanted, wanted]
    with pytest.raises(ValueError, match="x: expected are personality"):
        list(of_hub({"personality": ["i am ."], "text": "a"}, "x"))


def test_chitchat_is_split_by_conversation() -> None:
    pytest.importorskip("chitchat_dataset")
    conversations = read_chitchat(package_folder("chitchat_dataset") / "dataset.json")
    assert len(conversations) == 7168
    assert sum(map(len, conversations)) > 138_000
    assert 131_000 < sum(max(len(c) - 1, 0) for c in conversations) <= 131_569
    data = Dialogues(most_evaluated=50, vocab_size=500)
    splits = data._chitchat()
    begun = {s: {(*e.history, e.reply)[:3] for e in getattr(splits, s)} for s in ("train", "val", "test")}
    long = {s: {t for t in found if len(t) == 3 and len(t[2]) > 20} for s, found in begun.items()}
    assert not long["train"] & long["test"]
    assert not long["train"] & long["val"]
    assert abs(len(splits.train) / 131_569 - 0.9) < 0.02


def test_turns_become_exchanges() -> None:
    assert list(exchanges_of(["a", "b", "c"])) == [Exchange(("a",), "b"), Exchange(("a", "b"), "c")]
    assert list(exchanges_of(["a"])) == []


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    rows: list[dict[str, Any]] = [
        {"source": "b", "target": "c", "history": ["a"], "persona": ["p"]}, {"source": "x", "target": "y"},
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read_pairs(path) == [Exchange(("a", "b"), "c", ("p",)), Exchange(("x",), "y")]
    for bad, said in (
        ({"source": "b", "target": None}, "'target' must be str"),
        ({"source": "b", "target": "c", "history": "a"}, "'history' must be a list of texts"),
        ({"source": "b"}, "no field 'target'"),
    ):
        path.write_text(json.dumps(bad))
        with pytest.raises(ValueError, match=said):
            read_pairs(path)


def test_own_files_that_were_made_in_haste(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"source": "do you have cats ?", "target": "größer 😀 ."}
    rows = [json.dumps({**row, "source": f"{row['source']} {i}"}, ensure_ascii=False) for i in range(8)]
    (tmp_path / "val.jsonl").write_text("\n".join(rows[:3]))

    def train(content: bytes) -> Any:
        (tmp_path / "train.jsonl").write_bytes(content)
        data = Dialogues("jsonl", str(tmp_path), vocab_size=300, batch_size=4, longest=30)
        data.setup("fit")
        return data.train_dataloader().dataset.exchanges

    plain = train("\n".join(rows).encode())
    said = capsys.readouterr().out
    assert "3 of 3 pairs to val are among those to train" in said
    assert train("\r\n".join(rows).encode()) == plain == train(b"\xef\xbb\xbf" + "\n".join(rows).encode())
    empty, odd = (
        json.dumps({"source": "a ?", "target": " "}),
        json.dumps({"source": "x " * 9999, "target": "y"}),
    )
    assert train("\n".join([*rows, empty]).encode()) == plain
    assert "1 of 9 pairs to train lack a word on one side and are left out" in capsys.readouterr().out
    assert len(train("\n".join([*rows, odd, rows[0]]).encode())) == 10
    assert "1 of 10 pairs of the training split have a text of more than 30 tokens" in capsys.readouterr().out
    for content, said in (
        (
            "\n".join(rows).encode("latin-1", "replace"),
            r"line 1: byte \d+ is no text \(UTF-8\); save the file",
        ),
        ("\n".join(rows).encode("utf-16"), "line 1: holds a byte 0"),
        (rows[0].encode(), "batch_size is 4, but the training data hold 1 items"),
        (b'{"source": "a \\ud800 b", "target": "c"}', "line 1: half of a character"),
        (b"[]", "is no object with fields 'source', 'target'"),
        (empty.encode(), "only empty pairs to train"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            train(content)
        assert "\n" not in str(caught.value)


def mo(pairs: dict[str, str]) -> bytes:
    """A compiled catalogue."""
    keys = [k.encode() for k in pairs]
    values = [v.encode() for v in pairs.values()]
    start = 28 + 16 * len(pairs)
    tables, texts = b"", b""
    for part in (keys, values):
        for text in part:
            tables += struct.pack("<2I", len(text), start + len(texts))
            texts += text + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 28)
    return head + tables + texts


def test_catalogues_with_contexts_and_plurals(tmp_path: Path) -> None:
    folder = tmp_path / "locale" / "de" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    content = {"": "header", "verb\x04Open": "Öffnen", "%(n)d item\0%(n)d items": "%(n)d Ding\0%(n)d Dinge",
               "<b>Save</b> &now\n": "Jetzt <i>sichern</i>", "untranslated": ""}  # fmt: skip
    (folder / "a.mo").write_bytes(mo(content))
    assert "" not in read_catalogue(folder / "a.mo")
    pairs = catalogue_pairs(tmp_path, "en", "de")
    wanted = {"Open": "Öffnen", "item": "Ding", "items": "Dinge", "Save now": "Jetzt sichern"}
    assert {e.history[0]: e.reply for e in pairs} == wanted
    back = catalogue_pairs(tmp_path, "de", "en")
    assert {e.reply: e.history[0] for e in back} == wanted
    with pytest.raises(ValueError, match=r"has no catalogues locale/fr/LC_MESSAGES/\*.mo, only of de"):
        catalogue_pairs(tmp_path, "en", "fr")
    (folder / "a.mo").write_bytes(mo(content)[:60])
    with pytest.raises(ValueError, match="damaged"):
        read_catalogue(folder / "a.mo")


def test_names_to_fill_in_shortcuts_and_markup_are_taken_out() -> None:
    assert clean("Delete &%(name)s?\nYes, <b>100%%</b> of %s .") == "Delete ? Yes, 100 of."


def test_djangos_catalogues() -> None:
    pytest.importorskip("django")
    pairs = catalogue_pairs(package_folder("django"), "en", "de")
    assert 780 < len(pairs) < 930
    assert {e.history[0]: e.reply for e in pairs}["Add another"] == "Weiteres hinzufügen" or len(pairs)
    assert len({e.history for e in pairs}) == len(pairs)


def test_aligned_files_and_token_batches(tmp_path: Path) -> None:
    sentence_pairs(tmp_path, "de", "en")
    data = ParallelText("lines", str(tmp_path), source="de", target="en", vocab_size=300, batch_tokens=200)
    data.setup("fit")
    assert data.batch_size is None
    seen: list[int] = []
    for batch in data.train_dataloader():
        longest = max(batch["source"].shape[1], batch["target"].shape[1])
        assert len(batch["source"]) * longest <= 200
        seen += batch["index"].tolist()
    assert sorted(seen) == list(range(24))
    (tmp_path / "train.en").write_text("one\n")
    with pytest.raises(ValueError, match=r"train\.en has 1 lines"):
        ParallelText("lines", str(tmp_path), source="de", target="en").setup("fit")
    with pytest.raises(FileNotFoundError, match=r"no .*train\.fr"):
        ParallelText("lines", str(tmp_path), source="fr", target="en").setup("fit")


def test_a_file_that_is_asked_keeps_its_lines_and_what_is_read_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    persona_chat(tmp_path, 2)
    rows = [{"source": "c", "history": ["a", "b"], "persona": ["i ski", "i sing"]}, {"source": "word " * 40}]
    (tmp_path / "asked.jsonl").write_text("\n" + "\n  \n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "asked.txt").write_text("one\n\n \ntwo\n")
    data = Dialogues(
        "parlai", str(tmp_path), predict=str(tmp_path / "asked.jsonl"), history=2, vocab_size=300
    )
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    told = {key: batch[key] for key in ("history", "unread", "cut", "persona", "row")}
    assert told == {
        "history": ["b\nc", "word " * 40], "unread": [1, 0], "cut": [False, True],
        "persona": ["i ski\ni sing", ""], "row": [2, 4],
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "asked.jsonl: 2 lines without a word are passed over" in out
    assert "1 of 2 histories have earlier utterances than the last 2" in out
    data = Dialogues("parlai", str(tmp_path), predict=str(tmp_path / "asked.txt"), vocab_size=300)
    data.setup("predict")
    assert next(iter(data.predict_dataloader()))["row"] == [1, 4]
    assert "asked.txt: 2 lines without a word" in capsys.readouterr().out
    (tmp_path / "asked.csv").write_text("one")
    with pytest.raises(ValueError, match=r"asked\.csv is a file; read are \.txt"):
        Dialogues("parlai", str(tmp_path), predict=str(tmp_path / "asked.csv")).setup("predict")


def test_what_is_asked(tmp_path: Path) -> None:
    persona_chat(tmp_path, 2)
    (tmp_path / "asked.txt").write_text("one\n\ntwo\n")
    given: list[tuple[Any, list[tuple[str, ...]]]] = [
        ("hello", [("hello",)]),
        (["hi", "you ?"], [("hi", "you ?")]),
        (str(tmp_path / "asked.txt"), [("one",), ("two",)]),
    ]
    for predict, wanted in given:
        data = Dialogues("parlai", str(tmp_path), predict=predict, vocab_size=300)
        data.setup("predict")
        assert [e.history for e in data.predict_set.exchanges] == wanted
        batch = next(iter(data.predict_dataloader()))
        assert "reference" not in batch
        assert len(batch["history"]) == len(wanted)
    for bad in ("  ", ["a", ""]):
        with pytest.raises(ValueError, match="an utterance without a word"):
            Dialogues("parlai", str(tmp_path), predict=bad).setup("predict")


def test_weights_keep_template_and_tokenizer(tmp_path: Path) -> None:
    persona_chat(tmp_path, 2)
    data = Dialogues("parlai", str(tmp_path), vocab_size=300, history=2)
    kept = json.loads(data.vocabulary)
    assert (kept["template"], kept["history"], kept["longest"]) == ("dialogue", 2, 30)
    assert data.tokenizer.convert_tokens_to_ids(["<a>", "<b>", "<mask>"]) == [A, B, MASK]


class Recorder(LightningModule):
    """A module of one weight that notes the items of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen.append(batch["index"].tolist())
        return self.weight * 1.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("limit", [3, 0.5])
@pytest.mark.parametrize("batches", [{"batch_tokens": 150}, {"batch_size": 8}])
def test_an_epoch_has_so_many_batches(batches: dict[str, int], limit: float, tmp_path: Path) -> None:
    sentence_pairs(tmp_path, "de", "en", 48)
    module = Recorder()
    data = ParallelText("lines", str(tmp_path), source="de", target="en", vocab_size=300, **batches)
    trainer = quiet_trainer(limit_train_batches=limit, limit_val_batches=0, max_epochs=3)
    trainer.fit(module, data)
    assert trainer.num_training_batches == 3
    assert len(module.seen) == 9
    assert len({i for batch in module.seen[:3] for i in batch}) == sum(map(len, module.seen[:3]))
    # an epoch has an order of its own, and is not what the one before it left over
    rest = set(range(48)) - {i for batch in module.seen[:3] for i in batch}
    assert {i for batch in module.seen[3:6] for i in batch} != rest


def test_loader_processes_get_ids_alone(tmp_path: Path) -> None:
    persona_chat(tmp_path, 3)
    data = Dialogues("parlai", str(tmp_path), history=2, vocab_size=300, batch_size=4, num_workers=2)
    data.setup("fit")
    data.setup("test")
    with mock.patch("datamodules.text.pair_items.token_ids", wraps=token_ids) as called:
        data.train_dataloader()
        data.test_dataloader()
        before = called.call_count
        for found in (data.train_set, data.test_set):
            sent = pickle.dumps(found)
            assert b"Tokenizer" not in sent
            assert b"Dialogues" not in sent
            assert (b"my house" in sent) == found.texts
            arrived, keys = pickle.loads(sent), [3, 1, 2]
            assert len(arrived) == len(found)
            one, other = arrived.__getitems__(keys), found.__getitems__(keys)
            assert [*one] == [*other]
            assert all(
                torch.equal(v, other[k]) if isinstance(v, torch.Tensor) else v == other[k]
                for k, v in one.items()
            )
        assert len(list(data.train_dataloader())) == len(data.train_set) // 4
        assert called.call_count == before > 0  # neither a process nor an epoch tokenizes anew


def test_empty_sides_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence_pairs(tmp_path, "de", "en")
    for name in ("train.de", "val.en"):
        lines = (tmp_path / name).read_text().splitlines()
        (tmp_path / name).write_text("\n".join([" ", *lines[1:]]) + "\n")
    data = ParallelText("lines", str(tmp_path), source="de", target="en")
    assert len(data.splits.train) == 23
    assert not capsys.readouterr().out  # a size may be asked of another instance, which would say it, too
    data.setup("fit")
    said = capsys.readouterr().out
    assert "1 of 24 pairs to train lack a word on one side and are left out" in said
    assert "pairs to val lack a word" in said
    (tmp_path / "val.en").write_text("\n" * len((tmp_path / "val.de").read_text().splitlines()))
    with pytest.raises(ValueError, match="de and en: only empty pairs to val"):
        _ = ParallelText("lines", str(tmp_path), source="de", target="en").splits


def test_most_pairs_are_of_a_fixed_shuffle(tmp_path: Path) -> None:
    sentence_pairs(tmp_path, "de", "en")
    persona_chat(tmp_path, 6)
    for make in (lambda **o: ParallelText("lines", str(tmp_path), source="de", target="en", **o),
                 lambda **o: Dialogues("parlai", str(tmp_path), **o)):  # fmt: skip
        every = make().splits
        five, seven = (make(most_pairs=n, most_evaluated=2).splits for n in (5, 7))
        assert (len(five.train), len(five.val), len(five.test)) == (5, 2, 2)
        assert five.train == seven.train[:5]
        assert five.train != every.train[:5]
        assert (five.val, five.test) == (every.val[:2], every.test[:2])
