"""Documents and summaries as they lie on disks, and the batches of them."""

from __future__ import annotations

import json
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.summaries import COUNTS, article, fake_jsonl, fake_lines, fake_nyt

from datamodules import Summaries
from datamodules.text.procedural import CONCEPTS, FILLERS, procedural
from datamodules.text.summary_files import nyt_article


def ready(stage: str = "fit", **given: Any) -> Summaries:
    made = Summaries(**{"vocab_size": 300, **given})
    made.setup(stage)
    return made


def test_lines_and_json_lines_are_the_same_set(tmp_path: Path) -> None:
    lines = ready(format="lines", root=str(fake_lines(tmp_path / "a")))
    jsonl = ready(format="jsonl", root=str(fake_jsonl(tmp_path / "b")))
    assert len(lines.train_set) == len(jsonl.train_set) == COUNTS["train"]
    a, b = (d.val_set.__getitems__([0, 1, 2]) for d in (lines, jsonl))
    assert torch.equal(a["source"], b["source"])
    assert a["document"] == b["document"]
    assert b["name"] == ["val-100", "val-101", "val-102"]


def test_a_batch_is_wrapped_padded_and_decodes_to_its_text(tmp_path: Path) -> None:
    data = ready(root=str(fake_jsonl(tmp_path)))
    batch = data.val_set.__getitems__([0, 3])
    assert batch["source"].shape == batch["source_mask"].shape
    for row, mask, text in zip(batch["target"], batch["target_mask"], batch["summary"], strict=True):
        real = row[mask].tolist()
        assert (real[0], real[-1]) == (data.bos_token_id, data.eos_token_id)
        assert data.tokenizer.decode(real[1:-1]) == text
        assert (row[~mask] == data.pad_token_id).all()
    training = data.train_set.__getitems__([(0, 1)])
    assert "document" not in training
    assert training["index"].tolist() == [1]


def test_ids_are_barts(tmp_path: Path) -> None:
    data = ready(root=str(fake_jsonl(tmp_path)))
    assert (data.bos_token_id, data.pad_token_id, data.eos_token_id) == (0, 1, 2)
    assert data.special_ids == [3, data.vocab_size - 1]


def test_long_documents_are_cut_keep_their_end_and_are_counted(tmp_path: Path) -> None:
    data = ready(root=str(fake_jsonl(tmp_path)), max_source=12)
    batch = data.val_set.__getitems__([0, 1])
    assert batch["source"].shape == (2, 12)
    assert batch["source"][:, -1].tolist() == [data.eos_token_id] * 2
    assert batch["truncated"].all()
    assert not ready(root=str(tmp_path)).val_set.__getitems__([0])["truncated"].any()


def test_empty_documents_are_left_out_with_a_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fake_lines(tmp_path)
    lines = (root / "train.source").read_text().splitlines()
    lines[3], lines[5] = "", "  "
    (root / "train.source").write_text("\n".join(lines) + "\n")
    data = ready(format="lines", root=str(root))
    assert len(data.train_set) == COUNTS["train"] - 2
    assert "2 of 24 documents are empty" in capsys.readouterr().out
    (root / "val.target").write_text("\n" * COUNTS["val"])
    with pytest.raises(ValueError, match="val: none of the 6 documents"):
        ready(format="lines", root=str(root))


def test_null_is_no_text_and_a_document_to_summarise_needs_no_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fake_jsonl(tmp_path / "set")
    records = [json.loads(line) for line in (root / "train.jsonl").read_text().splitlines()]
    records[2]["summary"] = None
    records[4]["document"] = None
    records[5]["id"] = records[6]["id"] = "twice"
    text = "".join(json.dumps(record) + "\n" for record in records)
    (root / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert len(ready(root=str(root)).train_set) == COUNTS["train"] - 2
    assert "2 of 24 documents are empty or lack a summary, left out" in capsys.readouterr().out
    data = ready("predict", predict=str(root / "train.jsonl"))
    assert len(data.predict_set) == COUNTS["train"] - 1  # all that have a document
    assert "1 of 24 documents are empty, left out" in capsys.readouterr().out
    records[2]["summary"] = "half \ud800"
    (root / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(ValueError, match=r"train\.jsonl, line 3: half of a character"):
        ready(root=str(root))
    for wrong, words in ((3, "'summary' must be str or null, got '3'"), (float("nan"), "no JSON")):
        records[2]["summary"] = wrong
        (root / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        with pytest.raises(ValueError, match=f"line 3: {words}"):
            ready(root=str(root))


def test_a_file_without_documents_is_one_line(tmp_path: Path) -> None:
    for name, content, words in (
        ("table.csv", "document,summary\na,b\n", "is a .csv: read are"),
        ("empty.txt", "", "none of the 0 documents has a text$"),
        ("blank.txt", "\n \n", "none of the 2 documents has a text$"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=words) as caught:
            ready("predict", predict=str(tmp_path / name))
        assert name in str(caught.value)


def test_fields_and_cached_summaries_by_their_names(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for split in COUNTS:
        rows = [{"article": f"text {i}", "highlights": f"a\nb {i}", "drawn": "a b"} for i in range(4)]
        (root / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = ready(root=str(root), document_field="article", summary_field="highlights", yhat_field="drawn")
    assert data.train_set.records[2]["summary"] == "a b 2"  # lines of highlights are joined
    assert data.train_set.__getitems__([0])["yhat"].shape[1] >= 4
    with pytest.raises(ValueError, match="no field 'document'"):
        ready(root=str(root))


def test_aclsum_has_three_sentences_a_paper() -> None:
    data = ready("test", format="aclsum", vocab_size=2000)
    assert (len(data.train_set), len(data.test_set)) == (300, 300)
    assert len(ready(format="aclsum").val_set) == 150
    rows = data.test_set.records[:3]
    assert [r["prompt"] for r in rows] == ["challenge : ", "approach : ", "outcome : "]
    assert len({r["document"] for r in rows}) == 1
    papers = [{r["id"].rpartition("/")[0] for r in s.records} for s in (data.train_set, data.test_set)]
    assert not papers[0] & papers[1]
    words = [len(r["summary"].split()) for r in data.train_set.records]
    assert sum(words) / len(words) == pytest.approx(22, abs=3)
    assert "aclsum" not in sys.modules  # read by path


def test_the_procedural_set_is_as_it_is_described() -> None:
    found = procedural("train", 0)
    assert len(found) == 300
    assert found == procedural("train", 0)
    assert found != procedural("train", 1)
    owner = {word: row[0] for row in CONCEPTS for word in row[1:]}
    canonical = {row[0] for row in CONCEPTS}
    assert len(owner) == 120
    assert len(canonical) == 40
    assert not canonical & (set(owner) | set(FILLERS))
    for record in found[:50]:
        words, summary = record["document"].split(), record["summary"].split()
        named = [owner[w] for w in words if w in owner]
        assert len(words) == 14
        assert Counter(named) == dict.fromkeys(summary, 2)
        assert list(dict.fromkeys(named)) == summary  # in order
        assert len({w for w in words if w in owner}) == 6


def test_nyt_splits_by_year_and_keeps_long_test_summaries(tmp_path: Path) -> None:
    root = fake_nyt(tmp_path)
    data = ready(format="nyt", root=str(root))
    assert (len(data.train_set), len(data.val_set)) == (11, 1)
    tested = ready("test", format="nyt", root=str(root)).test_set
    assert len(tested) == 1
    assert len(tested.records[0]["summary"].split()) == 60
    first = data.train_set.records[0]
    assert first["document"].count(".") == 3  # the lead paragraph is not there twice


@pytest.mark.parametrize("content", ["<nitf><body>", '<!ENTITY a "b">', "\0\0"])
def test_a_broken_article_is_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "1.xml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"1\.xml") as caught:
        nyt_article(path)
    assert "\n" not in str(caught.value)
    path.write_text(article("", ["text"]))
    assert nyt_article(path) is None


def test_a_set_of_the_hub_is_read_by_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, config: str | None, split: str, **more: Any) -> list[dict[str, str]]:
        asked.append((name, config, split))
        return [{"article": f"text {i}", "highlights": f"sum {i}", "id": str(i)} for i in range(20)]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    given = {"document_field": "article", "summary_field": "highlights", "hub_config": "3.0.0"}
    data = ready(format="hub", hub="abisee/cnn_dailymail", **given)
    assert asked == [("abisee/cnn_dailymail", "3.0.0", s) for s in ("train", "validation")]
    assert data.train_set.records[4] == {"document": "text 4", "summary": "sum 4", "id": "4"}


def test_missing_files_say_the_layout(tmp_path: Path) -> None:
    for form in ("lines", "jsonl", "nyt"):
        with pytest.raises(FileNotFoundError, match=f"format {form} expects under") as caught:
            ready(format=form, root=str(tmp_path))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"needs data\.init_args\.hub"):
        Summaries(format="hub")
    with pytest.raises(ValueError, match="which format: jsonl does not use"):
        Summaries(hub="a/b")


def weights_of(data: Summaries, vocabulary: str) -> None:
    """As if a Trainer had restored weights with this vocabulary."""
    module = types.SimpleNamespace(vocabulary=types.SimpleNamespace(text=vocabulary))
    data.trainer = types.SimpleNamespace(lightning_module=module)  # type: ignore[assignment]


def test_own_documents_are_read_with_the_tokenizer_of_the_weights(tmp_path: Path) -> None:
    trained = ready(root=str(fake_jsonl(tmp_path / "set")))
    path = tmp_path / "mine.txt"
    path.write_text("The storm hit houses.\n\nThe mayor said many roofs.\n")
    data = ready("predict", predict=str(path), root=str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="format jsonl expects under"):
        data.predict_set.__getitems__([0])
    weights_of(data, trained.vocabulary)
    batch = data.predict_set.__getitems__([0, 1])
    assert "target" not in batch
    assert batch["name"] == ["mine.txt:1", "mine.txt:3"]
    assert trained.tokenizer.decode(batch["source"][0], skip_special_tokens=True) == "The storm hit houses."


def test_another_tokenizer_than_the_weights_have_is_refused(tmp_path: Path) -> None:
    a = ready(root=str(fake_jsonl(tmp_path / "set")))
    folder = tmp_path / "tokenizer"
    ready(root=str(tmp_path / "set"), vocab_size=280).tokenizer.save_pretrained(folder)
    b = ready(root=str(tmp_path / "set"), tokenizer=str(folder), vocab_size=2000)
    assert b.vocab_size != a.vocab_size
    weights_of(b, a.vocabulary)
    with pytest.raises(ValueError, match=r"another tokenizer than data\.init_args\.tokenizer"):
        b.train_set.__getitems__([(0, 0)])


def test_blank_lines_are_told_and_lines_keep_their_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"document": "one"}\n\n \n{"document": "two"}\n\n')
    data = ready("predict", predict=str(path), format="procedural")
    assert data.predict_set.__getitems__([0, 1])["row"] == [1, 4]
    assert f"{path}: 2 blank lines are passed over" in capsys.readouterr().out
    path = tmp_path / "mine.txt"
    path.write_text("one\n\ntwo\n")
    data = ready("predict", predict=str(path), format="procedural")
    assert data.predict_set.__getitems__([0, 1])["row"] == [1, 3]
    assert f"{path}: 1 of 3 documents are empty, left out" in capsys.readouterr().out
