"""Questions to people: doccano and Prodigy JSON lines, Label Studio tasks, CoNLL.

The text of a sentence is its words, between blanks or without any. Each record carries the sentence's
``index`` and the model's own tags as a first draft.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datamodules.loading.files import written_whole
from datamodules.text.schemes import Span, tags_of

Query = tuple[int, Sequence[str], Sequence[Span], float | None]
"""(index, words, the model's own spans, its score)"""


def text_of(words: Sequence[str], spaces: bool) -> tuple[str, list[tuple[int, int]]]:
    """A sentence's text and where in it each word begins and ends."""
    places, at = [], 0
    for word in words:
        places.append((at, at + len(word)))
        at += len(word) + spaces
    return (" " if spaces else "").join(words), places


def export_queries(folder: Path, queries: Sequence[Query], spaces: bool, types: Sequence[str]) -> list[Path]:
    """Write the questions for each tool, with the model's own tags as a first draft.

    Returns:
        ``doccano.jsonl``, ``prodigy.jsonl``, ``label_studio.json`` with its ``label_studio.xml``, and
        ``sentences.conll``, whose last column is the draft.
    """
    writers = {
        "doccano.jsonl": _lines(_doccano(*query, spaces) for query in queries),
        "prodigy.jsonl": _lines(_prodigy(*query, spaces) for query in queries),
        "label_studio.json": json.dumps(
            [_label_studio(*q, spaces) for q in queries], ensure_ascii=False, indent=1
        ),
        "label_studio.xml": _interface(types),
        "sentences.conll": "".join(_conll(*query) for query in queries),
    }
    paths = []
    for name, text in writers.items():
        with written_whole(folder / name) as path:
            path.write_text(text, encoding="utf-8")
        paths.append(folder / name)
    return paths


def _lines(records: Iterable[Any]) -> str:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)


def _doccano(
    index: int, words: Sequence[str], spans: Sequence[Span], score: float | None, spaces: bool
) -> Any:
    text, places = text_of(words, spaces)
    label = [[places[a][0], places[b - 1][1], kind] for a, b, kind in spans]
    return {"text": text, "label": label, "index": index, "score": score}


def _prodigy(
    index: int, words: Sequence[str], spans: Sequence[Span], score: float | None, spaces: bool
) -> Any:
    text, places = text_of(words, spaces)
    tokens = [
        {"text": w, "start": a, "end": b, "id": i, "ws": spaces and i + 1 < len(words)}
        for i, (w, (a, b)) in enumerate(zip(words, places, strict=True))
    ]
    marked = [
        {
            "start": places[a][0],
            "end": places[b - 1][1],
            "token_start": a,
            "token_end": b - 1,
            "label": kind,
        }
        for a, b, kind in spans
    ]
    return {"text": text, "tokens": tokens, "spans": marked, "meta": {"index": index, "score": score}}


def _label_studio(
    index: int, words: Sequence[str], spans: Sequence[Span], score: float | None, spaces: bool
) -> Any:
    text, places = text_of(words, spaces)
    result = [
        {
            "id": f"{index}-{number}",
            "from_name": "label",
            "to_name": "text",
            "type": "labels",
            "value": {
                "start": places[a][0],
                "end": places[b - 1][1],
                "text": text[places[a][0] : places[b - 1][1]],
                "labels": [kind],
            },
        }
        for number, (a, b, kind) in enumerate(spans)
    ]
    prediction = {"model_version": "zoo.ActiveNER", "score": score, "result": result}
    return {"data": {"text": text, "index": index}, "predictions": [prediction]}


def _interface(types: Sequence[str]) -> str:
    """The labelling interface of Label Studio: it knows the names that the tasks use."""
    from xml.sax.saxutils import quoteattr

    labels = "\n".join(f"    <Label value={quoteattr(kind)}/>" for kind in types)
    inner = f'  <Labels name="label" toName="text">\n{labels}\n  </Labels>\n'
    return f'<View>\n{inner}  <Text name="text" value="$text"/>\n</View>\n'


def _conll(index: int, words: Sequence[str], spans: Sequence[Span], score: float | None) -> str:
    tags = tags_of(spans, len(words), "iob2")
    rows = "".join(f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True))
    return f"# index = {index}\n{rows}\n"
