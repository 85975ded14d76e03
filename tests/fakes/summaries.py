"""Tiny twins of the layouts of summarisation sets: side-by-side lines, JSON lines, NYT's articles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_TEXT = "the storm hit a small town on monday and the mayor said that many houses lost their roofs"
WORDS = _TEXT.split()
COUNTS = {"train": 24, "val": 6, "test": 6}


def text(number: int, words: int) -> str:
    """Words that differ from document to document."""
    return " ".join(WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(words)).capitalize() + "."


def records(split: str, count: int) -> list[dict[str, str]]:
    start = list(COUNTS).index(split) * 100
    return [
        {"document": " ".join(text(n + k, 12) for k in range(4)), "summary": text(n, 6), "id": f"{split}-{n}"}
        for n in range(start, start + count)
    ]


def fake_lines(root: Path) -> Path:
    """``train|val|test.source`` and ``.target``; returns ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        found = records(split, count)
        for end, field in (("source", "document"), ("target", "summary")):
            (root / f"{split}.{end}").write_text("".join(row[field] + "\n" for row in found))
    return root


def fake_jsonl(root: Path, **more: Any) -> Path:
    """``train|val|test.jsonl``; every record has ``more`` besides."""
    root.mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        rows = [json.dumps({**row, **more}) + "\n" for row in records(split, count)]
        (root / f"{split}.jsonl").write_text("".join(rows))
    return root


def article(summary: str, paragraphs: list[str]) -> str:
    """An article of the NYT Annotated Corpus, as far as it is read."""
    full = "".join(f"<p>{p}</p>" for p in paragraphs)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<!DOCTYPE nitf SYSTEM "http://www.nitf.org/IPTC/NITF/3.3/specification/dtd/nitf-3-3.dtd">\n'
        f"<nitf><body><body.head><abstract><p>{summary}</p></abstract></body.head><body.content>"
        f'<block class="lead_paragraph"><p>{paragraphs[0]}</p></block><block class="full_text">{full}</block>'
        "</body.content></body></nitf>\n"
    )


def fake_nyt(root: Path) -> Path:
    """12 articles before 2007, 2 after: with summaries of 60 words and of 6; one without abstract."""
    days = [f"2005/03/{day:02d}" for day in range(1, 13)] + ["2007/01/01", "2007/02/03", "2006/05/05"]
    for number, day in enumerate(days):
        folder = root / "data" / day
        folder.mkdir(parents=True, exist_ok=True)
        words = 60 if day == "2007/01/01" else 6
        summary = "" if day == "2006/05/05" else text(number, words)
        content = article(summary, [text(number + k, 12) for k in range(3)])
        (folder / f"{1_000_000 + number}.xml").write_text(content)
    return root


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    fake_lines(root)
    sizes = {
        "d_model": 16,
        **{f"{side}_layers": 1 for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 16 for side in ("encoder", "decoder")},
    }
    return {
        "model.init_args.sizes": json.dumps(sizes),
        "model.init_args.pretrained": None,
        "model.init_args.sample_length": 10,
        "data.init_args.tokenizer": None,
        "data.init_args.vocab_size": 300,
        "data.init_args.batch_size": 4,
        "data.init_args.num_workers": 0,
        "trainer.accumulate_grad_batches": 2,
        "trainer.precision": 32,
    }


TWINS = {"datamodules.Summaries": _twin}
WITHOUT_FILES = {"datamodules.Summaries": lambda given: given.get("format") in ("aclsum", "procedural")}
