"""Text: lines, JSON lines, tokenizers."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from fakes.pairs import persona_chat
from fakes.wizard import fake_wizard
from fuzz.forked import Reader

from datamodules.text.catalogues import read_catalogue
from datamodules.text.pair_files import asked, read_chitchat, read_pairs, read_parlai
from datamodules.text.records import read_jsonl, read_side_by_side
from datamodules.text.tokenizers import load_tokenizer, token_ids, train_tokenizer
from datamodules.text.vectors import WordVectors
from datamodules.text.wizard import read_wizard

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


def parlai(folder: Path) -> Path:
    persona_chat(folder, 2)
    return folder / "train_self_original.txt"


def chitchat(folder: Path) -> Path:
    turns = [
        [{"text": t, "timestamp": "2018-05-02T19:38:15Z", "sender": str(i % 2)}] for i, t in enumerate(TEXTS)
    ]
    (folder / "dataset.json").write_text(json.dumps({"a07e": {"prompt": "x", "messages": turns}}))
    return folder / "dataset.json"


def exchanges(folder: Path) -> Path:
    rows = [{"source": t, "target": t[:9], "history": TEXTS[:1], "persona": [t]} for t in TEXTS]
    (folder / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "val.jsonl"


def wizard(folder: Path) -> Path:
    return fake_wizard(folder, 2) / "train.json"


def catalogue(folder: Path) -> Path:
    """A compiled one with four texts."""
    keys, values = [t.encode() for t in TEXTS], [t.upper().encode() for t in TEXTS]
    start, tables, texts = 28 + 16 * len(TEXTS), b"", b""
    for text in keys + values:
        tables += struct.pack("<2I", len(text), start + len(texts))
        texts += text + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(TEXTS), 28, 28 + 8 * len(TEXTS), 0, 28)
    (folder / "django.mo").write_bytes(head + tables + texts)
    return folder / "django.mo"


def vectors(folder: Path) -> Path:
    (folder / "vectors.txt").write_text("3 2\ndocument 0.5 -1\ntrees 1 2e-1\nZürich 0 3\n", encoding="utf-8")
    return folder / "vectors.txt"


def questions(folder: Path) -> Path:
    (folder / "questions.txt").write_text("\n".join(["", *TEXTS, " "]) + "\n", encoding="utf-8")
    return folder / "questions.txt"


READERS = [
    Reader("word vectors of texts", vectors, lambda path: WordVectors(path, TEXTS)(TEXTS[0])),
    Reader("what is asked", questions, lambda path: asked(str(path))),
    Reader("PersonaChat of ParlAI", parlai, read_parlai),
    Reader("chit-chat", chitchat, read_chitchat),
    Reader("pairs as JSON lines", exchanges, read_pairs),
    Reader("Wizard of Wikipedia", wizard, read_wizard),
    Reader("gettext catalogue", catalogue, read_catalogue),
    Reader("lines side by side", lines, lambda path: read_side_by_side(path, path.with_suffix(".target"))),
    Reader("JSON lines", jsonl, lambda path: read_jsonl(path, {"document": str, "summary": str})),
    Reader("tokenizer.json", tokenizer, lambda path: token_ids(load_tokenizer(str(path)), TEXTS)),
]
