"""Questions go out to three labelling tools and come back: the same spans, with and without blanks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.text.conll import Sentence
from datamodules.text.queries import export_queries, read_answers, snap, text_of

TYPES = ["LOC", "PER"]
ENGLISH = [
    Sentence(("Ada", "Byron", "left", "Ely", "."), None),
    Sentence(("New", "York-based", "Ada"), None),
    Sentence(("Nobody", "came", "."), None),
]
CHINESE = [
    Sentence(("王", "小明", "住", "在", "北京", "。"), None),
    Sentence(("他", "來", "了"), None),
    Sentence(("上海", "很", "大"), None),
]
GUESSES = {
    True: [[(0, 2, "PER"), (3, 4, "LOC")], [(2, 3, "PER")], []],
    False: [[(0, 2, "PER"), (4, 5, "LOC")], [], [(0, 1, "LOC")]],
}


def exported(folder: Path, spaces: bool) -> tuple[list[Sentence], dict[int, Any]]:
    sentences = ENGLISH if spaces else CHINESE
    queries = [(i, s.words, GUESSES[spaces][i], -0.5 - i) for i, s in enumerate(sentences)]
    export_queries(folder, queries, spaces, TYPES)
    return sentences, dict(enumerate(GUESSES[spaces]))


def annotated(path: Path) -> Path:
    """What Label Studio exports when every draft is accepted."""
    tasks = json.loads(path.read_text())
    for task in tasks:
        task["annotations"] = [{"was_cancelled": False, "result": task.pop("predictions")[0]["result"]}]
    path.write_text(json.dumps(tasks))
    return path


FILES: dict[str, Callable[[Path], Path]] = {
    "doccano.jsonl": lambda p: p,
    "prodigy.jsonl": lambda p: p,
    "label_studio.json": annotated,
    "sentences.conll": lambda p: p,
}


@pytest.mark.parametrize("spaces", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_the_draft_comes_back_as_it_went_out(name: str, spaces: bool, tmp_path: Path) -> None:
    sentences, expected = exported(tmp_path, spaces)
    assert read_answers([FILES[name](tmp_path / name)], sentences, spaces, TYPES) == expected


def test_what_the_tools_are_given(tmp_path: Path) -> None:
    exported(tmp_path, spaces=True)
    doccano = json.loads((tmp_path / "doccano.jsonl").read_text().splitlines()[0])
    assert doccano == {
        "text": "Ada Byron left Ely .",
        "label": [[0, 9, "PER"], [15, 18, "LOC"]],
        "index": 0,
        "score": -0.5,
    }
    prodigy = json.loads((tmp_path / "prodigy.jsonl").read_text().splitlines()[0])
    assert prodigy["spans"][0] == {"start": 0, "end": 9, "token_start": 0, "token_end": 1, "label": "PER"}
    assert prodigy["tokens"][4] == {"text": ".", "start": 19, "end": 20, "id": 4, "ws": False}
    task = json.loads((tmp_path / "label_studio.json").read_text())[0]
    assert task["predictions"][0]["score"] == -0.5
    value = task["predictions"][0]["result"][1]["value"]
    assert value == {"start": 15, "end": 18, "text": "Ely", "labels": ["LOC"]}
    assert '<Label value="LOC"/>' in (tmp_path / "label_studio.xml").read_text()


def test_spans_are_snapped_over_blanks_and_never_moved_to_another_word() -> None:
    text, places = text_of(["New", "York-based", "Ada"], True)
    assert snap(0, 14, text, places) == (0, 2)
    assert snap(14, 18, text, places) == (2, 3)  # the blank before it
    assert snap(0, 8, text, places) is None  # cuts York-based
    assert snap(5, 14, text, places) is None
    assert snap(3, 4, text, places) is None  # a blank alone
    assert snap(15, 99, text, places) is None
    text, places = text_of(["王", "小明"], False)
    assert snap(0, 3, text, places) == (0, 2)
    assert snap(1, 2, text, places) is None


def test_a_misaligned_span_is_counted_and_named_and_its_sentence_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "back.jsonl"
    lines = [
        {"text": "New York-based Ada", "label": [[0, 8, "LOC"], [15, 18, "PER"]], "index": 1},
        {"text": "Nobody came .", "label": [], "index": 2},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert read_answers([path], ENGLISH, True, TYPES) == {2: []}
    said = capsys.readouterr().out
    assert "1 spans do not begin and end with words" in said
    assert "line 1: 'New York' (0:8, LOC)" in said


def test_skips_and_corrections_of_each_tool(tmp_path: Path) -> None:
    text = "Ada Byron left Ely ."
    prodigy = tmp_path / "prodigy.jsonl"
    lines = [
        {"text": text, "spans": [], "meta": {"index": 0}, "answer": "ignore"},
        {"text": "Nobody came .", "spans": [], "meta": {"index": 2}, "answer": "reject"},
    ]
    prodigy.write_text("\n".join(map(json.dumps, lines)))
    assert read_answers([prodigy], ENGLISH, True, TYPES) == {0: None, 2: None}
    studio = tmp_path / "studio.json"
    task = {"data": {"text": text, "index": 0}, "annotations": [{"was_cancelled": True, "result": []}]}
    studio.write_text(json.dumps([task]))
    assert read_answers([studio], ENGLISH, True, TYPES) == {0: None}
    later = tmp_path / "later.jsonl"
    entities = [{"id": 3, "label": "LOC", "start_offset": 15, "end_offset": 18}]
    later.write_text(json.dumps({"text": text, "entities": entities, "index": 0}))
    assert read_answers([studio, later], ENGLISH, True, TYPES) == {0: [(3, 4, "LOC")]}


GOOD = {"text": "Nobody came .", "label": [], "index": 2}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", {**GOOD, "text": "Somebody came ."}, "line 1: the text is not that of sentence 2"),
        ("a.jsonl", {**GOOD, "index": 3}, "index 3 is none of the 3 sentences"),
        ("a.jsonl", {**GOOD, "index": None}, "index None is none"),
        ("a.jsonl", {**GOOD, "label": [[0, 6, "ORG"]]}, "'ORG' is none of the types LOC, PER"),
        ("a.jsonl", {**GOOD, "label": [[0, "6", "PER"]]}, "whole numbers of characters"),
        ("a.jsonl", {**GOOD, "label": [[0, 6, "PER"], [0, 11, "LOC"]]}, "two spans overlap"),
        ("a.jsonl", {"text": "x", "index": 2}, "neither doccano's label"),
        ("a.jsonl", {"tokens": [], "spans": 3, "meta": {"index": 2}}, "spans are a list"),
        ("a.json", {"data": {}}, "no list of tasks"),
        ("a.json", [{"data": 3}], "task 1: a task has data and annotations"),
        ("a.json", [{"data": {"index": 2}, "annotations": [{"result": [{"value": {}}]}]}], "marks one label"),
        ("a.conll", "# index = 2\nNobody\tO\nleft\tO\n", "the words are not those of sentence 2"),
        ("a.conll", "# index = 2\nNobody\tPER\n", "line 2: 'PER' is no tag"),
        ("a.conll", "Nobody\tO\n", "index None is none"),
        ("a.csv", "", "labels are .json"),
    ],
)  # fmt: skip
def test_answers_that_do_not_fit_are_one_line(name: str, content: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match="a") as caught:
        read_answers([path], ENGLISH, True, TYPES)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
