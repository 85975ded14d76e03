"""Tiny files in the layouts of language models' data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def _lines(path: Path, records: list[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def fake_choices(root: Path, layout: str, count: int = 2) -> Path:
    """Questions in an official layout; the third ending, the first solution, the third choice are right."""
    numbers = range(count)
    if layout == "hellaswag":
        for split in ("train", "val", "test"):
            records = [
                {"ind": i, "activity_label": "Removing ice", "ctx_a": f"A man {i} [title] stands.",
                 "ctx_b": "he then", "ctx": "", "split": split, "split_type": "indomain",
                 "endings": ["[substeps] sings", "scrapes it", "sleeps", "eats"], "source_id": "x",
                 **({} if split == "test" else {"label": 1})}
                for i in numbers
            ]  # fmt: skip
            _lines(root / f"hellaswag_{split}.jsonl", records)
    elif layout == "piqa":
        for split in ("train", "valid"):
            records = [
                {"goal": f"How to open jar {i}?", "sol1": "turn it", "sol2": "eat it"} for i in numbers
            ]
            _lines(root / f"{split}.jsonl", records)
            (root / f"{split}-labels.lst").write_text("0\n" * count)
    elif layout == "commonsenseqa":
        words = ["bed", "car", "box", "sea", "sky"]
        for name in ("train_rand_split", "dev_rand_split", "test_rand_split_no_answers"):
            records = [
                {"id": str(i), **({} if "no_answers" in name else {"answerKey": "C"}),
                 "question": {"stem": f"Where is thing {i}?", "question_concept": "thing",
                              "choices": [{"label": "ABCDE"[n], "text": w} for n, w in enumerate(words)]}}
                for i in numbers
            ]  # fmt: skip
            _lines(root / f"{name}.jsonl", records)
    else:
        rows = [f"{i},They said {i} more.,They said {i} less.,stereo,age,[],a0,[]" for i in numbers]
        header = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators"
        (root / "crows_pairs_anonymized.csv").write_text("\n".join([header, *rows]) + "\n")
    return root


def fake_bins(root: Path, entries: int = 50257, tokens: int = 3000, end: int = 50256) -> Path:
    """nanoGPT's ``train.bin`` and ``val.bin`` with an end token every hundred tokens."""
    root.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for name, count in (("train", tokens), ("val", tokens // 3)):
        ids = draw.integers(0, entries, count).astype(np.uint16)
        ids[::100] = end
        ids.tofile(root / f"{name}.bin")
    return root


def fake_texts(root: Path, count: int = 30, field: str = "text") -> Path:
    """``train.jsonl`` and ``val.jsonl`` of short texts."""
    root.mkdir(parents=True, exist_ok=True)
    for name, number in (("train", count), ("val", count // 3), ("test", count // 3)):
        _lines(root / f"{name}.jsonl", [{field: f"{name} text {i}: " + "word é " * (i % 7 + 3)}
                                        for i in range(number)])  # fmt: skip
    return root


def fake_chats(root: Path, count: int = 30) -> Path:
    """``train.jsonl``, ``val.jsonl`` and ``test.jsonl`` of messages."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("train", "val", "test"):
        _lines(root / f"{name}.jsonl", [
            {"messages": [{"role": "user", "content": f"{name} question {i}?"},
                          {"role": "assistant", "content": f"answer {i}"}]} for i in range(count)
        ])  # fmt: skip
    return root
