"""Cleaning, splits by digest, exact and near duplicates, what was seen of a test text."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from datamodules import TextStream
from datamodules.text.corpus import Corpus, cleaned, digest_of, normalised
from datamodules.text.minhash import SIMILAR, components, shingles, signature, similar_pairs
from datamodules.text.stream_files import Document
from datamodules.text.text_baselines import baselines, contamination

WORDS = [f"w{i}" for i in range(400)]


def drawn(seed: int, words: int = 120) -> list[str]:
    return random.Random(seed).choices(WORDS, k=words)


def changed(words: list[str], count: int, seed: int = 0) -> list[str]:
    """So many words replaced, evenly spaced: each takes five 5-grams away and brings five."""
    found = [*words]
    for place in range(count):
        found[((place + 1) * len(words) // (count + 1) + 9 * seed) % len(words)] = f"new{seed}_{place}"
    return found


def jaccard(a: str, b: str) -> float:
    x, y = (set(shingles(text).tolist()) for text in (a, b))
    return len(x & y) / len(x | y)


def documents(texts: Iterable[str], split: str | None = None) -> list[Document]:
    return [Document(text, str(i), split) for i, text in enumerate(texts)]


def made(texts: list[Document], **given: object) -> Corpus:
    return Corpus(lambda: texts, **given)  # type: ignore[arg-type]


def test_shingles_are_the_runs_of_five_words() -> None:
    assert len(shingles("a b c d e f")) == 2
    assert shingles("a b c d e").tolist() == shingles("a b  c\nd e").tolist()
    assert len(shingles("a b")) == len(shingles("a")) == 1
    assert len(shingles("")) == 0
    assert shingles("a b c d e")[0] != shingles("e d c b a")[0]
    assert len(shingles("a b c d e " * 9)) == 5


def test_places_agree_with_the_probability_of_the_jaccard_similarity() -> None:
    for count in (0, 1, 4, 10):
        pairs = [(" ".join(drawn(s)), " ".join(changed(drawn(s), count))) for s in range(12)]
        true = np.mean([jaccard(a, b) for a, b in pairs])
        told = np.mean([(signature(a) == signature(b)).mean() for a, b in pairs])
        assert told == pytest.approx(true, abs=3 * np.sqrt(true * (1 - true) / (128 * 12)) + 1e-9)


def test_near_duplicates_are_those_of_all_pairs() -> None:
    texts = [" ".join(drawn(i)) for i in range(60)]
    texts += [" ".join(changed(drawn(i), 1, i)) for i in range(20)]  # 5 of 116 5-grams: .917
    texts += [" ".join(changed(drawn(i), 6, i)) for i in range(20, 40)]  # .59: not the same
    found = {*similar_pairs(np.stack([signature(t) for t in texts]))}
    sets = [set(shingles(text).tolist()) for text in texts]
    naive = {
        (i, j)
        for i, j in itertools.combinations(range(len(texts)), 2)
        if len(sets[i] & sets[j]) >= SIMILAR * len(sets[i] | sets[j])
    }
    assert found == naive == {(i, 60 + i) for i in range(20)}


def test_one_of_each_connected_component_is_kept() -> None:
    words = drawn(0, 300)
    chain = [words]
    for step in range(4):  # each is like the next, the ends are not alike
        chain.append(changed(chain[-1], 4, step))
    texts = [" ".join(c) for c in chain]
    texts.insert(2, " ".join(drawn(99)))
    assert jaccard(texts[0], texts[-1]) < SIMILAR < jaccard(texts[0], texts[1])
    assert components(np.stack([signature(t) for t in texts])).tolist() == [0, 0, 2, 0, 0, 0]
    many = np.repeat(signature("some words that are the same")[None], 200, axis=0)  # beyond pair by pair
    assert components(many).tolist() == [0] * 200


def test_repeated_texts_go_and_those_held_out_are_kept_there() -> None:
    train = documents(["A  b", "a B", "c", "d", "", "held OUT"], "train")
    held = documents(["held out", "Held  out"], "val") + documents(["e", "c"], "test")
    corpus = made(train + held)
    assert [*corpus.texts("train")] == ["A  b", "d"]
    assert [*corpus.texts("val")] == ["held out"]
    assert [*corpus.texts("test")] == ["e", "c"]
    counts = corpus.counts
    assert (counts.repeated, counts.held, counts.empty, counts.similar) == (2, 2, 1, 0)
    assert counts.told() == "2 repeated, 2 to train that are held out, too, 1 empty"
    kept = made(train + held, deduplicate="none")
    assert [*kept.texts("train")] == ["A  b", "a B", "d"]
    assert [*kept.texts("val")] == ["held out", "Held  out"]
    assert (kept.counts.repeated, kept.counts.held) == (0, 2)


def test_near_duplicates_of_what_is_held_out_leave_the_training_split() -> None:
    words = drawn(1)
    corpus = made(
        documents([" ".join(words), " ".join(drawn(2)), " ".join(changed(drawn(2), 1))], "train")
        + documents([" ".join(changed(words, 1))], "test")
        + documents([" ".join(drawn(3))], "val"),
        deduplicate="near",
    )
    assert [*corpus.texts("train")] == [" ".join(drawn(2))]
    assert (corpus.counts.held, corpus.counts.similar) == (1, 1)


def test_a_split_by_digest_has_the_shares_and_keeps_repeated_texts_together() -> None:
    texts = [f"text {i % 90}" for i in range(180)]
    corpus = made(documents(texts), val=0.2, test=0.1, deduplicate="none")
    found = {split: [*corpus.texts(split)] for split in ("train", "val", "test")}
    assert {s: len({*t}) for s, t in found.items()} == {"train": 63, "val": 18, "test": 9}
    assert sum(map(len, found.values())) == 180
    order = sorted({*texts}, key=digest_of)
    assert {*found["test"]} == {*order[:9]}
    assert {*found["val"]} == {*order[9:27]}
    named = made(documents(texts[:50], "train") + documents(["x"], "test"), val=0.1)
    assert len([*named.texts("val")]) == 5
    assert [*named.texts("test")] == ["x"]


def test_few_documents_are_divided_by_place() -> None:
    text = "".join(f"line {i:03}\n" for i in range(100))
    corpus = made(documents([text]), val=0.1, test=0.2)
    found = ["".join(corpus.texts(split)) for split in ("train", "val", "test")]
    assert "".join(found) == text
    assert [len(part) // 9 for part in found] == [70, 10, 20]
    with pytest.raises(ValueError, match="no document to train of 3"):
        made(documents(["a"]))
    with pytest.raises(ValueError, match="the texts: no documents"):
        made([])


def test_cleaning() -> None:
    assert cleaned("a\r\nb \t\n\n\n\n\nc\u00a0d\x00\x07\ufeffe\n") == "a\nb\n\n\nc de"
    assert cleaned("e\u0301") == "é"
    assert cleaned("\tindented\n") == "\tindented"
    assert normalised(" A\u00a0 b\n") == "a b"


def test_what_was_seen_of_a_test_text_is_told_as_a_naive_search_tells_it() -> None:
    draw = random.Random(0)
    train = [bytes(draw.choices(range(97, 123), k=k)) for k in (1000, 40, 3000)]
    test = [train[0][123:423] + bytes(draw.choices(range(65, 90), k=500)), b"short", train[2][:49]]
    windows = [t[i : i + 50] for t in test for i in range(0, len(t) - 49, 50)]
    naive = sum(any(w in t for t in train) for w in windows) / len(windows)
    assert contamination(train, test) == naive == 6 / 16
    assert np.isnan(contamination(train, [b"short"]))
    assert contamination([test[0]], [test[0]]) == 1.0


def test_baselines_of_a_known_text() -> None:
    told = baselines([b"ab" * 5000], [b"ab" * 500])
    assert told["unigram"] == pytest.approx(-np.log2(5001 / 10256), abs=1e-9)
    assert 0 < told["bigram"] < 0.1
    assert baselines([b"ab"], []) == {}


def test_the_stream_says_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text(" ".join(drawn(i % 35)))
    data = TextStream("files", str(tmp_path), context=32)
    data.setup("fit")
    assert "left out of 40 documents: 5 repeated" in capsys.readouterr().out
    assert sum(data.stores[s].documents for s in ("train", "val", "test")) == 35
    held = [*data.corpus.texts("test")]
    assert data.fertility() == sum(map(len, held)) / (120 * len(held))
    assert data.contamination() == 0
