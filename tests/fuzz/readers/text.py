"""Text: lines, JSON lines, tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

from fuzz.forked import Reader

from datamodules.text.records import read_jsonl, read_side_by_side
from datamodules.text.tokenizers import load_tokenizer, token_ids, train_tokenizer

TEXTS = [f"document {i} about {word} in Zürich" for i, word in enumerate(("trees", "cats", "ships", "rain"))]


def lines(folder: Path) -> Path:
    (folder / "train.target").write_text("\n".join(TEXTS) + "\n")
    (folder / "train.source").write_text("\n".join(TEXTS) + "\n")
    return folder / "train.source"


def jsonl(folder: Path) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps({"document": t, "summary": t[:8]}) + "\n" for t in TEXTS))
    return path


def tokenizer(folder: Path) -> Path:
    train_tokenizer(TEXTS, 60, "bpe", ["<unk>", "<pad>", "<s>", "</s>"]).save_pretrained(folder)
    return folder / "tokenizer.json"


READERS = [
    Reader("lines side by side", lines, lambda path: read_side_by_side(path, path.with_suffix(".target"))),
    Reader("JSON lines", jsonl, lambda path: read_jsonl(path, {"document": str, "summary": str})),
    Reader("tokenizer.json", tokenizer, lambda path: token_ids(load_tokenizer(str(path)), TEXTS)),
]
