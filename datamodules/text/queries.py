"""Questions to people and their answers: doccano and Prodigy JSON lines, Label Studio tasks, CoNLL.

The text of a sentence is its words, between blanks or without any; a span of characters that comes back must
begin and end where words do, blanks around it aside. One that does not is counted and named, never moved; its
sentence waits for a correction. Each record carries the sentence's ``index``, and its text must be the one
that was asked.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.loading.files import one_line, read_json, written_whole
from datamodules.loading.terminal import say
from datamodules.text.conll import Sentence
from datamodules.text.ner_files import json_record
from datamodules.text.records import lines_of
from datamodules.text.schemes import Span, spans_of, split_tag, tags_of

Query = tuple[int, Sequence[str], Sequence[Span], float | None]
"""(index, words, the model's own spans, its score)"""
_SHOWN = 5


def text_of(words: Sequence[str], spaces: bool) -> tuple[str, list[tuple[int, int]]]:
    """A sentence's text and where in it each word begins and ends."""
    places, at = [], 0
    for word in words:
        places.append((at, at + len(word)))
        at += len(word) + spaces
    return (" " if spaces else "").join(words), places


def snap(start: int, end: int, text: str, places: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Words (first, after the last) that a span of characters covers whole; None where it cuts one.

    Blanks at its ends are left out.
    """
    if not 0 <= start < end <= len(text):
        return None
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    end -= len(piece) - len(piece.rstrip())
    first = [i for i, (a, _) in enumerate(places) if a == start]
    last = [i for i, (_, b) in enumerate(places) if b == end]
    return (first[0], last[0] + 1) if first and last and first[0] <= last[0] else None


# --- out ---------------------------------------------------------------------------------------------------


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


# --- back --------------------------------------------------------------------------------------------------


class _Answers:
    """What comes back, checked against what was asked."""

    def __init__(self, sentences: Sequence[Sentence], spaces: bool, types: Sequence[str]) -> None:
        self.sentences, self.spaces, self.types = sentences, spaces, types
        self.found: dict[int, list[Span] | None] = {}
        self.misaligned: list[str] = []

    def sentence(self, index: Any, where: str) -> Sentence:
        if type(index) is not int or not 0 <= index < len(self.sentences):
            raise ValueError(
                f"{where}: index {index!r} is none of the {len(self.sentences):,} sentences that may be asked"
            )
        return self.sentences[index]

    def add(self, index: Any, text: Any, spans: Sequence[tuple[Any, Any, Any]], where: str) -> None:
        """A labelled sentence; spans in characters."""
        words = self.sentence(index, where).words
        asked, places = text_of(words, self.spaces)
        if text != asked:
            raise ValueError(
                f"{where}: the text is not that of sentence {index}; answer the file that was exported"
            )
        found: list[Span] = []
        wrong = False
        for start, end, kind in spans:
            if kind not in self.types:
                raise ValueError(f"{where}: {kind!r} is none of the types {', '.join(self.types)}")
            if type(start) is not int or type(end) is not int:
                raise ValueError(f"{where}: a span has start and end, whole numbers of characters")
            words_of = snap(start, end, asked, places)
            if words_of is None:
                self.misaligned.append(
                    f"{where}: {asked[max(start, 0) : max(end, 0)]!r} ({start}:{end}, {kind})"
                )
                wrong = True
            else:
                found.append((*words_of, str(kind)))
        if not wrong:
            self.add_words(index, found, where)

    def add_words(self, index: int, spans: Sequence[Span], where: str) -> None:
        """A labelled sentence; spans in words."""
        spans = sorted(set(spans))
        if any(a[1] > b[0] for a, b in itertools.pairwise(spans)):
            raise ValueError(f"{where}: two spans overlap; a word has one tag")
        self.found[index] = list(spans)

    def skip(self, index: Any, where: str) -> None:
        """A sentence that a person did not want to label."""
        self.sentence(index, where)
        self.found[index] = None


def read_answers(
    paths: Sequence[Path], sentences: Sequence[Sentence], spaces: bool, types: Sequence[str]
) -> dict[int, list[Span] | None]:
    """Index -> entities, or None of a skipped sentence; a later file corrects an earlier one.

    Formats are told by ending and keys: ``.json`` is Label Studio's export; ``.jsonl`` is Prodigy's where
    lines have ``answer`` or ``tokens``, else doccano's; ``.conll`` is the exported table with other tags.
    Prodigy's ``reject`` and ``ignore``, and annotations that Label Studio calls cancelled, are skips.

    Raises:
        FileNotFoundError, ValueError: naming file, line and what is wrong.
    """
    answers = _Answers(sentences, spaces, types)
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}, which data.init_args.labels names")
        if path.suffix == ".json":
            _read_label_studio(path, answers)
        elif path.suffix == ".jsonl":
            _read_lines(path, answers)
        elif path.suffix == ".conll":
            _read_conll(path, answers)
        else:
            raise ValueError(f"{path}: labels are .json (Label Studio), .jsonl (doccano, Prodigy) or .conll")
    if bad := answers.misaligned:
        shown = "; ".join(bad[:_SHOWN]) + (f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else "")
        say(f"{len(bad):,} spans do not begin and end with words, their sentences stay unlabelled: {shown}")
    return answers.found


def _read_lines(path: Path, answers: _Answers) -> None:
    for number, line in lines_of(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        record = json_record(line, where)
        meta = record.get("meta")
        if "tokens" in record or "answer" in record:
            index = meta.get("index") if isinstance(meta, dict) else None
            if record.get("answer", "accept") != "accept":
                answers.skip(index, where)
                continue
            spans = _parts(record.get("spans", []), ("start", "end", "label"), where)
            answers.add(index, record.get("text"), spans, where)
            continue
        index = record.get("index", meta.get("index") if isinstance(meta, dict) else None)
        given = record.get("label", record.get("labels"))
        if given is None and "entities" in record:
            spans = _parts(record["entities"], ("start_offset", "end_offset", "label"), where)
        elif isinstance(given, list) and all(isinstance(s, list) and len(s) == 3 for s in given):
            spans = [(a, b, kind) for a, b, kind in given]
        else:
            raise ValueError(
                f"{where}: neither doccano's label [[start, end, type], ...] nor Prodigy's spans"
            )
        answers.add(index, record.get("text"), spans, where)


def _parts(items: Any, keys: Sequence[str], where: str) -> list[tuple[Any, Any, Any]]:
    if not isinstance(items, list) or not all(isinstance(i, dict) and set(keys) <= set(i) for i in items):
        raise ValueError(f"{where}: spans are a list of {{{', '.join(keys)}}}")
    return [(i[keys[0]], i[keys[1]], i[keys[2]]) for i in items]


def _read_label_studio(path: Path, answers: _Answers) -> None:
    try:
        tasks = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({one_line(error)})") from None
    if not isinstance(tasks, list):
        raise ValueError(f"{path}: no list of tasks; export as JSON")
    for number, task in enumerate(tasks, 1):
        where = f"{path}, task {number}"
        data = task.get("data") if isinstance(task, dict) else None
        annotations = task.get("annotations") if isinstance(task, dict) else None
        if not isinstance(data, dict) or not isinstance(annotations, list | None):
            raise ValueError(f"{where}: a task has data and annotations")
        for annotation in annotations or ():
            if not isinstance(annotation, dict):
                raise ValueError(f"{where}: an annotation is an object")
            if annotation.get("was_cancelled") is True:
                answers.skip(data.get("index"), where)
                continue
            spans = list(_results(annotation.get("result"), where))
            answers.add(data.get("index"), data.get("text"), spans, where)


def _results(result: Any, where: str) -> Iterator[tuple[Any, Any, Any]]:
    if not isinstance(result, list):
        raise ValueError(f"{where}: an annotation has a list result")
    for item in result:
        value = item.get("value") if isinstance(item, Mapping) else None
        labels = value.get("labels") if isinstance(value, Mapping) else None
        if not isinstance(labels, list) or len(labels) != 1:
            raise ValueError(f"{where}: each result marks one label of a text")
        assert isinstance(value, Mapping)
        yield value.get("start"), value.get("end"), labels[0]


def _read_conll(path: Path, answers: _Answers) -> None:
    index: int | None = None
    words: list[str] = []
    tags: list[str] = []

    def finish(where: str) -> None:
        if not words:
            return
        sentence = answers.sentence(index, where)
        if tuple(words) != tuple(sentence.words):
            raise ValueError(
                f"{where}: the words are not those of sentence {index}; answer the file that was exported"
            )
        spans = spans_of(tags)
        if unknown := {kind for *_, kind in spans} - set(answers.types):
            raise ValueError(f"{where}: {min(unknown)!r} is none of the types {', '.join(answers.types)}")
        assert index is not None
        answers.add_words(index, spans, where)

    for number, line in lines_of(path):
        where = f"{path}, line {number}"
        if line.startswith("# index = ") and "\t" not in line:
            finish(where)
            words, tags = [], []
            text = line.removeprefix("# index = ").strip()
            index = int(text) if text.isdecimal() and len(text) < 12 else None
        elif line.strip():
            cells = line.split("\t")
            try:
                split_tag(cells[-1].strip())
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            words.append(cells[0].strip())
            tags.append(cells[-1].strip())
    finish(str(path))
