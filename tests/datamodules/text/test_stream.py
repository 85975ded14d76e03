"""Streams of tokens: each token scored once, documents apart, bytes exact, resumed anywhere."""

from __future__ import annotations

import json
import pickle
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from datamodules import TextStream
from datamodules.loading.sampling import GlobalBatchSampler
from datamodules.text.byte_tokens import Encoder, byte_tokenizer
from datamodules.text.stream_rows import EvaluationRows, TrainingRows
from datamodules.text.token_store import TokenStore, in_memory
from datamodules.text.tokenizers import document, token_ids, train_tokenizer

PAD, BOS, EOS = 0, 1, 2
TEXTS = ["abcdefghij", "k", "", "lmnopqrstuvwxyz0123456789", "é€😀"]


def streamed(texts: list[str], start: int = BOS, tokenizer: Any = None) -> TokenStore:
    tokenizer = tokenizer or byte_tokenizer()
    return in_memory(texts, Encoder(tokenizer), start, EOS, len(tokenizer))


def whole(rows: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = rows.__getitems__(list(range(len(rows))))
    return found


def scored(batch: dict[str, Tensor]) -> list[int]:
    return batch["labels"][batch["labels"] >= 0].tolist()


def folder_of(root: Path, texts: list[str], split: str | None = None) -> Path:
    folder = root if split is None else root / split
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_text(text, encoding="utf-8")
    return root


def test_a_byte_is_its_number_and_three_and_the_library_agrees() -> None:
    tokenizer = byte_tokenizer()
    text = "a é\n\t </s> 😀  don't"
    assert token_ids(tokenizer, [text])[0] == [b + 3 for b in text.encode()]
    assert Encoder(tokenizer).ids([text])[0].tolist() == [b + 3 for b in text.encode()]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (PAD, BOS, EOS)
    assert len(tokenizer) == 259
    assert tokenizer.decode([b + 3 for b in text.encode()]) == text


@pytest.mark.parametrize("context", [2, 3, 7, 16, 64])
def test_training_rows_score_every_token_but_starts_once(context: int) -> None:
    store = streamed(TEXTS)
    batch = whole(TrainingRows(store, context, PAD, False, "x"))
    assert scored(batch) == [i for i in store.ids.tolist() if i != BOS]
    assert TrainingRows(store, context, PAD, False, "x").scored == len(scored(batch)) == len(store.ids) - 5
    assert int(batch["bytes"].sum()) == sum(len(t.encode()) for t in TEXTS) == store.text_bytes
    real = batch["documents"] > 0
    # rows overlap by the one token that is context alone
    assert int(real.sum()) == len(store.ids) + len(batch["index"]) - 1
    assert (batch["input_ids"][~real] == PAD).all()
    assert (batch["labels"][real & (batch["labels"] >= 0)] == batch["input_ids"][batch["labels"] >= 0]).all()


def test_documents_are_numbered_and_positions_begin_anew() -> None:
    batch = whole(TrainingRows(streamed(["ab", "c"]), 6, PAD, False, "x"))
    a, b, c = (ord(x) + 3 for x in "abc")
    assert batch["input_ids"].tolist() == [[1, a, b, 2, 1, c], [c, 2, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, a, b, 2, -100, c], [-100, 2, -100, -100, -100, -100]]
    assert batch["documents"].tolist() == [[1, 1, 1, 1, 2, 2], [1, 1, 0, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 0, 0, 0, 0]]
    assert batch["bytes"].tolist() == [3, 0]
    across = whole(TrainingRows(streamed(["ab", "c"]), 6, PAD, True, "x"))
    assert across["documents"].tolist() == [[1] * 6, [1, 1, 0, 0, 0, 0]]
    assert across["position_ids"][0].tolist() == [*range(6)]
    assert across["labels"].tolist() == batch["labels"].tolist()


def test_one_token_that_ends_and_begins_is_scored_behind_the_one_and_seen_by_the_other() -> None:
    store = streamed(["ab", "c"], start=EOS)
    a, b, c = (ord(x) + 3 for x in "abc")
    assert store.ids.tolist() == [2, a, b, 2, c, 2]
    batch = whole(TrainingRows(store, 6, PAD, False, "x"))
    assert batch["labels"].tolist() == [[-100, a, b, 2, c, 2]]
    assert batch["documents"].tolist() == [[1, 1, 1, 2, 2, 3]]
    evaluated = whole(EvaluationRows(store, 6, PAD, False, None, "x"))
    assert scored(evaluated) == [a, b, c]
    assert evaluated["documents"].tolist() == [[1, 1, 1, 2, 2, 0]]


@pytest.mark.parametrize(("context", "stride"), [(2, None), (7, None), (7, 1), (7, 3), (16, 5), (64, None)])
@pytest.mark.parametrize("across", [False, True])
def test_an_evaluation_scores_the_text_once_for_any_stride(
    context: int, stride: int | None, across: bool
) -> None:
    rows = EvaluationRows(streamed(TEXTS), context, PAD, across, stride, "x")
    batch = whole(rows)
    assert scored(batch) == [b + 3 for text in TEXTS for b in text.encode()]
    assert rows.scored == len(scored(batch))
    assert int(batch["bytes"].sum()) == sum(len(t.encode()) for t in TEXTS)
    if stride is not None and not across:  # a token of a long document has its context
        for row in range(len(rows)):
            ids, labels, numbers = (batch[k][row].tolist() for k in ("input_ids", "labels", "documents"))
            for place, label in enumerate(labels):
                first = numbers.index(numbers[place])
                assert label < 0 or ids[first] == BOS or place - first >= context - stride


def test_a_document_of_an_evaluation_does_not_depend_on_the_others() -> None:
    context = 12

    def pieces(texts: list[str]) -> list[tuple[list[int], list[int], list[int]]]:
        batch = whole(EvaluationRows(streamed(texts), context, PAD, False, 4, "x"))
        found = []
        for ids, labels, positions, numbers in zip(
            *(batch[k] for k in ("input_ids", "labels", "position_ids", "documents")), strict=True
        ):
            for number in range(1, int(numbers.max()) + 1):
                part = numbers == number
                found.append((ids[part].tolist(), labels[part].tolist(), positions[part].tolist()))
        return found

    assert pieces(TEXTS) == [piece for text in TEXTS if text for piece in pieces([text])]


def test_bytes_are_exact_for_characters_split_over_tokens_and_for_any_tokenizer() -> None:
    texts = ["naïve café €5 😀😀 日本語", "don't  split\n\nthis", "plain words here and there  \n"]
    total = [len(t.encode()) for t in texts]
    of_bpe = train_tokenizer(texts * 3, 275, "byte_bpe", ("<pad>", "<s>", "</s>"), normalised=False)
    of_words = train_tokenizer(texts * 3, 60, "words", ("<pad>", "<s>", "</s>", "<unk>"))
    for tokenizer in (of_bpe, of_words):
        encoder = Encoder(tokenizer)
        rows, counts = encoder.counted(texts)
        assert [int(c.sum()) for c in counts] == total
        assert [r.tolist() for r in rows] == token_ids(tokenizer, texts)
        for context in (3, 8):
            store = streamed(texts, tokenizer=tokenizer)
            for made in (
                TrainingRows(store, context, PAD, False, "x"),
                EvaluationRows(store, context, PAD, False, None, "x"),
            ):
                assert int(whole(made)["bytes"].sum()) == sum(total)
    emoji = Encoder(of_bpe).counted(["🧪"])
    assert len(emoji[0][0]) > 1
    assert int(emoji[1][0].sum()) == 4
    assert Encoder(of_words).table is None
    assert Encoder(of_bpe).table is not None


def test_the_stream_goes_on_where_it_was_at_every_position_and_for_two_processes() -> None:
    store, batch = streamed(TEXTS * 3), 4
    rows = TrainingRows(store, 5, PAD, False, "x", batch)
    size, epoch = len(rows), len(rows) // batch
    assert (size % batch, rows.rows % batch) == (0, 1)  # three rows are there to fill the last batch

    def sampled(begun: int, rank: int = 0, world: int = 1) -> list[list[int]]:
        found: list[list[int]] = []
        done = begun
        while done < 2 * epoch:
            sampler = GlobalBatchSampler(size, batch, rank, world, 7, None, lambda done=done: done)
            found += [[i for _, i in keys] for keys in sampler]
            done = begun + len(found)
        return found

    plain = sampled(0)
    assert plain[:epoch] != plain[epoch:]
    for first in (0, epoch):
        keys = [i for batch in plain[first : first + epoch] for i in batch]
        assert sorted(keys) == [*range(size)]
        seen = rows.__getitems__(keys)
        assert sorted(scored(seen)) == sorted(i for i in store.ids.tolist() if i != BOS)
        assert int(seen["bytes"].sum()) == store.text_bytes
        assert (seen["documents"][:, 0] == 1).all()  # a row that fills up is no padding either
    for position in range(2 * epoch):
        assert sampled(position) == plain[position:]
    ranks = [sampled(0, rank, 2) for rank in (0, 1)]
    assert [[a, b, c, d] for (a, c), (b, d) in zip(*ranks, strict=True)] == plain


def test_the_standard_library_is_split_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    data = TextStream(context=512, batch_size=4)
    data.setup("fit")
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    train = b"".join(f.read_bytes() for i, f in enumerate(files) if i % 10)
    test = b"".join(f.read_bytes() for i, f in enumerate(files) if i % 10 == 0)
    assert data.stores["train"].text_bytes == len(train)
    assert (
        bytes((data.stores["test"].ids[data.stores["test"].ids > EOS] - 3).astype(np.uint8)) == test[:200_000]
    )
    assert data.test_set.scored == 200_000
    assert data.val_set.scored == 200_000
    counts = np.bincount(np.frombuffer(train, np.uint8), minlength=256) + 1.0
    expected = -np.log2(counts / counts.sum())[np.frombuffer(test[:200_000], np.uint8)].mean()
    told = data.baselines()
    assert told["unigram"] == pytest.approx(expected, abs=1e-5)
    assert told["xz"] < told["gzip"] < told["bigram"] < told["unigram"] < 8
    assert (data.vocab_size, data.bos_token_id, data.eos_token_id, data.pad_token_id) == (259, 1, 2, 0)
    assert data.facts["set"] == "stdlib"


def test_files_of_every_kind_and_splits_by_name(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lines = "".join(json.dumps({"body": f"line {i} é"}) + "\n" for i in range(12))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.jsonl").write_text(lines)
    with pa.output_stream(str(tmp_path / "train" / "b.jsonl.zst"), compression="zstd") as file:
        file.write(lines.replace("line", "packed").encode())
    parquet.write_table(
        pa.table({"body": [f"row {i}" for i in range(9)], "x": [0] * 9}), tmp_path / "val.parquet"
    )
    (tmp_path / "test.txt").write_text("\ufeffone\nline\n\nsecond paragraph\n\n\n", encoding="utf-8")
    data = TextStream("files", str(tmp_path), field="body", unit="paragraph", context=16)
    data.setup("fit")
    assert [*data.corpus.texts("test")] == ["one\nline\n", "second paragraph\n"]
    assert [*data.corpus.texts("val")] == [f"row {i}" for i in range(9)]
    assert [*data.corpus.texts("train")][11:13] == ["line 11 é", "packed 0 é"]
    assert data.stores["train"].text_bytes == sum(len(t.encode()) for t in data.corpus.texts("train"))


def test_bins_of_nanogpt_are_mapped_and_no_pickle_is_read(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "PWNED",))

    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(Bomb()))
    rng = np.random.default_rng(0)
    for name, size in (("train", 1000), ("val", 101)):
        rng.integers(0, 65, size).astype(np.uint16).tofile(tmp_path / f"{name}.bin")
    data = TextStream("bin", str(tmp_path), context=33, batch_size=4)
    data.setup("fit")
    assert isinstance(data.stores["train"].ids, np.memmap)
    assert (data.vocab_size, data.vocabulary, data.eos_token_id) == (65, "", -1)
    assert data.train_set.scored == 999
    assert data.val_set.scored == 100
    batch = whole(data.train_set)
    assert scored(batch) == data.stores["train"].ids[1:].tolist()
    assert not (tmp_path / "PWNED").exists()
    named = TextStream("bin", str(tmp_path), context=33, tokenizer="bytes")
    named.setup("fit")
    assert named.vocab_size == 259
    assert int(whole(named.test_set)["bytes"].sum()) > 0


def test_tokens_are_kept_in_files_and_mapped_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"text number {i} é" * 5 for i in range(40)]
    root, kept = folder_of(tmp_path / "texts", texts), tmp_path / "kept"
    plain, cached = (
        TextStream("files", str(root), context=32, vocab_size=300, cache=c) for c in (None, str(kept))
    )
    for data in (plain, cached):
        data.prepare_data()
        data.setup("fit")
    assert "the tokens to train go to" in capsys.readouterr().out
    again = TextStream("files", str(root), context=32, vocab_size=300, cache=str(kept))
    again.setup("fit")
    assert again._corpus is None  # no text was read
    for split in ("train", "val", "test"):
        stores = [d.stores[split] for d in (plain, cached, again)]
        assert isinstance(stores[2].ids, np.memmap)
        assert all(np.array_equal(stores[0].ids, s.ids) for s in stores)
        assert len({s.text_bytes for s in stores}) == 1
    assert [*again.learned()] == [*cached.learned()]
    sent = pickle.loads(pickle.dumps(again.train_set))  # to a spawned loader process, the name of the file
    assert isinstance(sent.store.ids, np.memmap)
    assert sent.store.ids.filename == again.stores["train"].ids.filename
    assert whole(sent)["labels"].equal(whole(again.train_set)["labels"])
    path = next(kept.glob("*_train.bin"))
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"_train.bin has .* delete it, and it is made anew"):
        TextStream("files", str(root), context=32, vocab_size=300, cache=str(kept)).setup("fit")
    (root / "000.txt").write_text("another text")
    anew = TextStream("files", str(root), context=32, vocab_size=300, cache=str(kept))
    anew.setup("fit")
    assert anew._corpus is not None


def test_prompts_are_padded_in_front_and_say_how_they_go_on(tmp_path: Path) -> None:
    data = TextStream("files", str(folder_of(tmp_path, ["abcdefghijklmnopqrstuvwxyz\n" * 40])), context=16,
                      prompt_tokens=6, predict_samples=3)  # fmt: skip
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    assert batch["input_ids"].shape == batch["documents"].shape == (3, 6)
    assert batch["reference_ids"].shape == (3, 6)
    assert all(len(p) == 6 and (p + r) in "abcdefghijklmnopqrstuvwxyz\n" * 2
               for p, r in zip(batch["prompt"], batch["reference"], strict=True))  # fmt: skip
    typed = TextStream("files", str(tmp_path), context=16, predict=["a", "bcd"])
    typed.setup("predict")
    batch = next(iter(typed.predict_dataloader()))
    assert batch["input_ids"].tolist() == [[0, 0, 1, 100], [1, 101, 102, 103]]
    assert batch["documents"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert batch["reference"] == ["", ""]


def written(root: Path, name: str, content: bytes) -> Path:
    (root / name).write_bytes(content)
    return root


@pytest.mark.parametrize(
    ("name", "content", "given", "said"),
    [
        ("a.txt", b"good\xff\n", {}, r"a.txt: byte 5 is no text \(UTF-8\)"),
        ("a.txt", "good".encode("utf-16-le"), {}, r"a.txt: byte 2 is 0, no text"),
        ("a.txt", b"", {}, r"a.txt is empty; delete it"),
        ("a.txt", b" \n\n", {}, r"a.txt holds nothing but blanks"),
        ("a.txt", b"ab", {}, r"no document to validate"),
        ("a.jsonl", b'{"text": 3}\n', {}, r"a.jsonl, line 1: no text 'text', only 'text'"),
        ("a.jsonl", b'{"body": "x"}\n', {}, r"line 1: no text 'text', only 'body'; data.init_args.field"),
        ("a.jsonl", b"[1]\n", {}, r"line 1: no text 'text', only '.1.'"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', {}, r"line 1: half of a character"),
        ("a.jsonl", b"nope\n", {}, r"line 1: no JSON"),
        ("a.jsonl", b"", {}, r"a.jsonl is empty"),
        ("a.jsonl.zst", b"no zstd at all", {}, r"a.jsonl.zst is damaged"),
        ("a.parquet", b"PAR1 and nothing", {}, r"a.parquet is no Parquet file"),
        ("a.doc", b"x", {}, r"holds no file of .txt, .jsonl"),
        ("train.txt", b"x", {"root": "{root}/nope"}, r"no .*nope; expected is a folder"),
        ("train.bin", b"123", {"layout": "bin"}, r"train.bin has 3 bytes: no two or more ids"),
        ("val.bin", b"1234", {"layout": "bin"}, r"no .*train.bin; nanoGPT"),
    ],
)  # fmt: skip
def test_bad_files_are_one_line(
    tmp_path: Path, name: str, content: bytes, given: dict[str, Any], said: str
) -> None:
    written(tmp_path, name, content)
    settings = {"layout": "files", "root": str(tmp_path), "context": 8} | {
        k: v.replace("{root}", str(tmp_path)) for k, v in given.items()
    }
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        TextStream(**settings).setup("fit")
    assert "\n" not in str(caught.value)


def test_names_that_tell_splits_in_part_a_foreign_tokenizer_and_ids_beyond_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path, ["x"], "train")
    (tmp_path / "other.txt").write_text("y")
    with pytest.raises(ValueError, match=r"other.txt is neither train, val nor test: name them all so"):
        TextStream("files", str(tmp_path), context=8).setup("fit")
    np.full(50, 300, np.uint16).tofile(tmp_path / "train.bin")
    np.full(50, 300, np.uint16).tofile(tmp_path / "val.bin")
    with pytest.raises(ValueError, match=r"train.bin has the id 300, but the tokenizer has 259 entries"):
        TextStream("bin", str(tmp_path), context=8, tokenizer="bytes").setup("fit")
    monkeypatch.setattr("datamodules.text.token_store.FIRST", 40)
    late = np.full(50, 5, np.uint16)
    late[-1] = 300  # beyond what is looked at before the training
    late.tofile(tmp_path / "train.bin")
    np.full(50, 5, np.uint16).tofile(tmp_path / "val.bin")
    data = TextStream("bin", str(tmp_path), context=8, tokenizer="bytes", batch_size=1)
    data.setup("fit")
    data.train_set.__getitems__([0])
    with pytest.raises(ValueError, match=r"train.bin has the id 300, but the tokenizer has 259 entries"):
        data.train_set.__getitems__([len(data.train_set) - 1])
    bare = json.loads(document(byte_tokenizer()))
    bare["roles"] = {}
    (tmp_path / "t.json").write_text(json.dumps(bare))
    with pytest.raises(ValueError, match="has no end token, which stands between two documents"):
        TextStream(context=8, tokenizer=str(tmp_path / "t.json")).setup("fit")
    with pytest.raises(ValueError, match="at most 7"):
        TextStream(context=8, stride=8)
    with pytest.raises(ValueError, match="context must be at least 2"):
        TextStream(context=1)
