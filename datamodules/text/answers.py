"""What people answer: doccano and Prodigy JSON lines, Label Studio's export, CoNLL.

A span of characters must begin and end where words do, blanks around it aside. One that does not is counted
and named, never moved; its sentence waits for a correction. The text of a record must be the one that was
asked.

Questions go out with a first draft, so that a file which nobody has touched looks like labels. Prodigy writes
``answer`` and Label Studio ``annotations`` when a person has answered: what lacks them is not answered.
doccano names at most who approved a document, a table nobody: what comes back of those is compared with the
drafts (:mod:`datamodules.text.ner_answers`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.loading.files import one_line, read_json
from datamodules.loading.terminal import say
from datamodules.text.conll import Sentence
from datamodules.text.ner_files import json_record
from datamodules.text.queries import text_of
from datamodules.text.records import lines_of
from datamodules.text.schemes import Span, spans_of, split_tag

_SHOWN = 5
ACCEPT = "if people agree with every draft, set data.init_args.accept_drafts: true"


@dataclass(frozen=True)
class Answer:
    """What came back of a sentence.

    Attributes:
        spans: its entities, None of a skipped one.
        path: of the file.
        confirmed: whether the tool says that a person has answered.
    """

    spans: Sequence[Span] | None
    path: Path
    confirmed: bool


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


class _Answers:
    """What comes back, checked against what was asked."""

    def __init__(self, sentences: Sequence[Sentence], spaces: bool, types: Sequence[str]) -> None:
        self.sentences, self.spaces, self.types = sentences, spaces, types
        self.found: dict[int, Answer] = {}
        self.misaligned: dict[int, list[str]] = {}
        self.differing: set[int] = set()
        self.path = Path()
        self.records = self.unanswered = 0

    def begin(self, path: Path) -> None:
        """A file, which corrects the earlier ones."""
        self.path, self.records, self.unanswered, self.differing = path, 0, 0, set()

    def end(self, mark: str, otherwise: str = "") -> None:
        """Tell how much of a file nobody has answered.

        Args:
            mark: what an answered record of such a file has.
            otherwise: what else can be done where all lack it.

        Raises:
            ValueError: for a file without any answer.
        """
        if not self.records:
            raise ValueError(f"{self.path} holds no sentence; name the file with the labels")
        if self.unanswered == self.records:
            raise ValueError(
                f"{self.path}: none of its {self.records:,} sentences has {mark}, nobody has answered them; "
                f"name what the tool exports when people have{otherwise}"
            )
        if self.differing:
            say(
                f"{len(self.differing):,} sentences have answers in {self.path} that differ: the last of "
                "each counts"
            )
        if self.unanswered:
            say(f"{self.unanswered:,} of {self.records:,} sentences in {self.path} lack {mark}: not answered")

    def sentence(self, index: Any, where: str) -> Sentence:
        """That of a record."""
        self.records += 1
        if type(index) is not int or not 0 <= index < len(self.sentences):
            raise ValueError(
                f"{where}: index {index!r} is none of the {len(self.sentences):,} sentences that may be asked"
            )
        return self.sentences[index]

    def leave(self, index: Any, where: str) -> None:
        """A sentence that nobody has answered."""
        self.sentence(index, where)
        self.unanswered += 1

    def add(
        self, index: Any, text: Any, spans: Sequence[tuple[Any, Any, Any]], where: str, confirmed: bool
    ) -> None:
        """A labelled sentence; spans in characters."""
        words = self.sentence(index, where).words
        asked, places = text_of(words, self.spaces)
        if text != asked:
            raise ValueError(
                f"{where}: the text is not that of sentence {index}; answer the file that was exported"
            )
        found: list[Span] = []
        wrong: list[str] = []
        for start, end, kind in spans:
            if kind not in self.types:
                raise ValueError(f"{where}: {kind!r} is none of the types {', '.join(self.types)}")
            if type(start) is not int or type(end) is not int:
                raise ValueError(f"{where}: a span has start and end, whole numbers of characters")
            words_of = snap(start, end, asked, places)
            if words_of is None:
                wrong.append(f"{where}: {asked[max(start, 0) : max(end, 0)]!r} ({start}:{end}, {kind})")
            else:
                found.append((*words_of, str(kind)))
        if wrong:
            self.misaligned[index] = wrong
            self.found.pop(index, None)  # an earlier answer, which this one corrects
        else:
            self.add_words(index, found, where, confirmed)

    def add_words(self, index: int, spans: Sequence[Span], where: str, confirmed: bool) -> None:
        """A labelled sentence; spans in words."""
        spans = sorted(set(spans))
        if any(a[1] > b[0] for a, b in itertools.pairwise(spans)):
            raise ValueError(f"{where}: two spans overlap; a word has one tag")
        self._keep(index, Answer(spans, self.path, confirmed))

    def skip(self, index: Any, where: str) -> None:
        """A sentence that a person did not want to label."""
        self.sentence(index, where)
        self._keep(index, Answer(None, self.path, True))

    def _keep(self, index: int, answer: Answer) -> None:
        """The last word on a sentence so far."""
        before = self.found.get(index)
        if before is not None and before.path == answer.path and before.spans != answer.spans:
            self.differing.add(index)
        self.misaligned.pop(index, None)
        self.found[index] = answer


def read_answers(
    paths: Sequence[Path],
    sentences: Sequence[Sentence],
    spaces: bool,
    types: Sequence[str],
    accept_drafts: bool = False,
) -> dict[int, Answer]:
    """Index -> what people say of the sentence; a later file corrects an earlier one.

    Formats are told by ending and keys: ``.json`` is Label Studio's export; ``.jsonl`` is Prodigy's where
    lines have ``answer`` or ``tokens``, else doccano's; ``.conll`` is the exported table with other tags.
    Prodigy's ``reject`` and ``ignore``, and annotations that Label Studio calls cancelled, are skips.
    Prodigy's lines without ``answer`` and Label Studio's tasks without annotation are not answered; it is
    said how many.

    Args:
        paths: of the files.
        sentences: all that may be asked.
        spaces: whether blanks stand between words.
        types: of entities.
        accept_drafts: take Prodigy's lines without ``answer`` for accepted.

    Raises:
        FileNotFoundError, ValueError: naming file, line and what is wrong; for a file without answers too.
    """
    answers = _Answers(sentences, spaces, types)
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}, which data.init_args.labels names")
        answers.begin(path)
        if path.suffix == ".json":
            _read_label_studio(path, answers)
            answers.end("an annotation")
        elif path.suffix == ".jsonl":
            _read_lines(path, answers, accept_drafts)
            answers.end("`answer`", f"; {ACCEPT}")
        elif path.suffix == ".conll":
            _read_conll(path, answers)
            answers.end("tags")
        else:
            raise ValueError(f"{path}: labels are .json (Label Studio), .jsonl (doccano, Prodigy) or .conll")
    if bad := [span for spans in answers.misaligned.values() for span in spans]:
        shown = "; ".join(bad[:_SHOWN]) + (f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else "")
        say(f"{len(bad):,} spans do not begin and end with words, their sentences stay unlabelled: {shown}")
    return answers.found


def _read_lines(path: Path, answers: _Answers, accept_drafts: bool) -> None:
    for number, line in lines_of(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        record = json_record(line, where)
        meta = record.get("meta")
        if "tokens" in record or "answer" in record:
            index = meta.get("index") if isinstance(meta, dict) else None
            answer = record.get("answer", "accept" if accept_drafts else None)
            if answer != "accept":
                (answers.leave if answer is None else answers.skip)(index, where)
                continue
            spans = _parts(record.get("spans", []), ("start", "end", "label"), where)
            answers.add(index, record.get("text"), spans, where, "answer" in record)
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
        approved = isinstance(record.get("annotation_approver"), str)
        answers.add(index, record.get("text"), spans, where, approved)


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
            raise ValueError(f"{where}: a task has data and annotations; export as JSON, not JSON-MIN")
        if not annotations:
            answers.leave(data.get("index"), where)
            continue
        if not all(isinstance(annotation, dict) for annotation in annotations):
            raise ValueError(f"{where}: an annotation is an object")
        labelled = [a for a in annotations if a.get("was_cancelled") is not True]
        if not labelled:  # a skip counts where nobody else has labelled the sentence
            answers.skip(data.get("index"), where)
        for annotation in labelled:
            spans = list(_results(annotation.get("result"), where))
            answers.add(data.get("index"), data.get("text"), spans, where, True)


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
        answers.add_words(index, spans, where, False)

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
