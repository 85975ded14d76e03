"""Texts, chats and questions for language models."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
from fakes.language import fake_bins, fake_chats, fake_choices, fake_texts
from fuzz.forked import Reader

from datamodules.text.byte_tokens import Encoder, byte_tokenizer
from datamodules.text.chat_files import read_chats
from datamodules.text.choice_files import commonsense, crows_pairs, hellaswag, own_lines, own_table, piqa
from datamodules.text.stream_files import documents_of
from datamodules.text.token_store import from_disk, on_disk, read_bin


def text(folder: Path) -> Path:
    (folder / "a.txt").write_text("Grüße aus Zürich.\n\nAnother paragraph of it.\n" * 4, encoding="utf-8")
    return folder / "a.txt"


def packed(folder: Path) -> Path:
    path = fake_texts(folder, 40) / "train.jsonl"
    with pa.output_stream(str(folder / "train.jsonl.zst"), compression="zstd") as file:
        file.write(path.read_bytes())
    return folder / "train.jsonl.zst"


def table(folder: Path) -> Path:
    texts = [f"row {i} é" for i in range(40)]
    parquet.write_table(pa.table({"text": texts, "n": list(range(40))}), folder / "a.parquet")
    return folder / "a.parquet"


def kept(folder: Path) -> Path:
    encoder = Encoder(byte_tokenizer())
    on_disk(folder, "kept", ["a text", "another é"], encoder, 1, 2, 259)
    return folder / "kept.json"


def own(folder: Path) -> Path:
    rows = [{"question": f"q {i}?", "choices": ["a", "b"], "answer": i % 2} for i in range(6)]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "q.jsonl"


def own_csv(folder: Path) -> Path:
    (folder / "q.csv").write_text('question,A,B,answer\n"what, now?",yes,no,a\n"two\nlines",x,y,1\n')
    return folder / "q.csv"


def ids(path: Path) -> object:
    (store,) = read_bin([path], 50257, 50256, None)
    return store.ids[:10].tolist()


READERS = [
    Reader("a text as a document", text, lambda path: list(documents_of(path, "text", "file", None))),
    Reader("a text by paragraphs", text, lambda path: list(documents_of(path, "text", "paragraph", None))),
    Reader("documents of JSON lines", lambda folder: fake_texts(folder) / "train.jsonl",
           lambda path: list(documents_of(path, "text", "file", None))),
    Reader("documents of .jsonl.zst", packed, lambda path: list(documents_of(path, "text", "file", None))),
    Reader("documents of Parquet", table, lambda path: list(documents_of(path, "text", "file", None))),
    Reader("nanoGPT's train.bin", lambda folder: fake_bins(folder, tokens=300) / "train.bin", ids),
    Reader("tokens that were kept", kept,
           lambda path: from_disk(path.parent, "kept", Encoder(byte_tokenizer()), 1, 2)),
    Reader("chats of JSON lines", lambda folder: fake_chats(folder, 6) / "train.jsonl", read_chats),
    Reader("HellaSwag", lambda folder: fake_choices(folder, "hellaswag") / "hellaswag_val.jsonl", hellaswag),
    Reader("PIQA", lambda folder: fake_choices(folder, "piqa") / "valid.jsonl", piqa),
    Reader("CommonsenseQA", lambda folder: fake_choices(folder, "commonsenseqa") / "dev_rand_split.jsonl",
           commonsense),
    Reader("CrowS-Pairs", lambda folder: fake_choices(folder, "crows_pairs") / "crows_pairs_anonymized.csv",
           crows_pairs),
    Reader("questions of JSON lines", own, own_lines),
    Reader("questions of a CSV", own_csv, own_table),
]  # fmt: skip
