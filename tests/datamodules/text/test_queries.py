"""Questions go out to three labelling tools and come back: the same spans, with and without blanks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.text.answers import read_answers, snap
from datamodules.text.conll import Sentence
from datamodules.text.ner_answers import take_answers
from datamodules.text.pool import Pool
from datamodules.text.queries import export_queries, text_of

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


def accepted(path: Path) -> Path:
    """What Prodigy exports when every draft is accepted."""
    lines = [json.loads(line) | {"answer": "accept"} for line in path.read_text().splitlines()]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def labels(paths: list[Path], sentences: list[Sentence], spaces: bool = True) -> dict[int, Any]:
    return {i: a.spans for i, a in read_answers(paths, sentences, spaces, TYPES).items()}


FILES: dict[str, Callable[[Path], Path]] = {
    "doccano.jsonl": lambda p: p,
    "prodigy.jsonl": accepted,
    "label_studio.json": annotated,
    "sentences.conll": lambda p: p,
}


@pytest.mark.parametrize("spaces", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_the_draft_comes_back_as_it_went_out(name: str, spaces: bool, tmp_path: Path) -> None:
    sentences, expected = exported(tmp_path, spaces)
    assert labels([FILES[name](tmp_path / name)], sentences, spaces) == expected


def edited(path: Path, gold: dict[int, Any], spaces: bool) -> Path:
    """The export of a person's labels, in the words of the tool that the name of the file tells."""
    sentences = ENGLISH if spaces else CHINESE
    places = [text_of(s.words, spaces)[1] for s in sentences]
    marks = {i: [(places[i][a][0], places[i][b - 1][1], kind) for a, b, kind in gold[i]] for i in gold}
    if path.suffix == ".json":
        tasks = json.loads(path.read_text())
        for task in tasks:
            result = [
                {"type": "labels", "value": {"start": a, "end": b, "labels": [kind]}}
                for a, b, kind in marks[task["data"]["index"]]
            ]
            task["annotations"] = [{"completed_by": 1, "was_cancelled": False, "result": result}]
        path.write_text(json.dumps(tasks))
        return path
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for number, record in enumerate(records, 1):
        if "doccano" in path.name:
            record |= {"id": number, "label": [list(m) for m in marks[record["index"]]], "Comments": []}
        else:
            spans = [{"start": a, "end": b, "label": kind} for a, b, kind in marks[record["meta"]["index"]]]
            record |= {"spans": spans, "answer": "accept", "_task_hash": number}
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.mark.parametrize("spaces", [True, False])
@pytest.mark.parametrize("name", ["doccano.jsonl", "prodigy.jsonl", "label_studio.json"])
def test_what_people_change_is_what_comes_back(name: str, spaces: bool, tmp_path: Path) -> None:
    sentences, drafts = exported(tmp_path, spaces)
    gold = {0: [(1, 2, "LOC"), (3, 5, "PER")], 1: [(0, 3, "LOC")], 2: drafts[2]}
    found = read_answers([edited(tmp_path / name, gold, spaces)], sentences, spaces, TYPES)
    assert {i: a.spans for i, a in found.items()} == gold
    pool = pool_with_drafts()
    assert take_answers(pool, found, lambda i: []) == gold
    assert pool.answers == gold


def pool_with_drafts() -> Pool:
    """Of the three English sentences, which wait."""
    pool = Pool([len(s.words) for s in ENGLISH], 3)
    pool.waiting = [0, 1, 2]
    pool.drafts = {i: sorted(spans) for i, spans in enumerate(GUESSES[True])}
    return pool


@pytest.mark.parametrize("name", ["doccano.jsonl", "sentences.conll"])
def test_a_file_that_nobody_has_edited_is_no_answer(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(tmp_path, spaces=True)
    path = tmp_path / name
    pool = pool_with_drafts()
    before = pool.state()
    with pytest.raises(
        ValueError, match=r"all 3 sentences came back exactly as the model tagged them"
    ) as said:
        take_answers(pool, read_answers([path], ENGLISH, True, TYPES), lambda i: [])
    assert str(path) in str(said.value)
    assert "set data.init_args.accept_drafts: true" in str(said.value)
    assert pool.state() == before
    found = take_answers(pool, read_answers([path], ENGLISH, True, TYPES), lambda i: [], accept_drafts=True)
    assert found == dict(enumerate(GUESSES[True]))
    # one sentence is corrected: somebody was there
    path.write_text(
        path.read_text().replace('[15, 18, "LOC"]', '[15, 18, "PER"]').replace("Ely\tB-LOC", "Ely\tO")
    )
    pool = pool_with_drafts()
    capsys.readouterr()
    assert set(take_answers(pool, read_answers([path], ENGLISH, True, TYPES), lambda i: [])) == {0, 1, 2}
    assert f"2 of 3 sentences in {path} came back exactly as the model tagged them" in capsys.readouterr().out
    # named again at the next resume it says nothing new
    pool.rounds, pool.waiting = dict.fromkeys((0, 1, 2), 1), []
    assert take_answers(pool, read_answers([path], ENGLISH, True, TYPES), pool.answers.__getitem__) == {}
    assert capsys.readouterr().out == ""


def test_who_approved_a_document_has_seen_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(tmp_path, spaces=True)
    path = tmp_path / "doccano.jsonl"
    lines = [
        json.loads(line) | {"id": 7, "annotation_approver": None} for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match="all 3 sentences"):
        take_answers(pool_with_drafts(), read_answers([path], ENGLISH, True, TYPES), lambda i: [])
    path.write_text("\n".join(json.dumps(line | {"annotation_approver": "ada"}) for line in lines))
    assert (
        len(take_answers(pool_with_drafts(), read_answers([path], ENGLISH, True, TYPES), lambda i: [])) == 3
    )
    assert "exactly" not in capsys.readouterr().out


def test_what_lacks_the_mark_of_its_tool_is_not_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(tmp_path, spaces=True)
    prodigy, studio = tmp_path / "prodigy.jsonl", tmp_path / "label_studio.json"
    with pytest.raises(
        ValueError, match=r"prodigy.jsonl: none of its 3 sentences has `answer`.*accept_drafts: true"
    ):
        read_answers([prodigy], ENGLISH, True, TYPES)
    assert len(read_answers([prodigy], ENGLISH, True, TYPES, accept_drafts=True)) == 3
    with pytest.raises(ValueError, match=r"label_studio.json: none of its 3 sentences has an annotation"):
        read_answers([studio], ENGLISH, True, TYPES, accept_drafts=True)
    lines = prodigy.read_text().splitlines()
    prodigy.write_text("\n".join([json.dumps(json.loads(lines[0]) | {"answer": "accept"}), *lines[1:]]))
    tasks = json.loads(studio.read_text())
    tasks[1]["annotations"] = [{"result": []}]
    studio.write_text(json.dumps(tasks))
    assert labels([prodigy], ENGLISH) == {0: GUESSES[True][0]}
    assert f"2 of 3 sentences in {prodigy} lack `answer`: not answered" in capsys.readouterr().out
    assert labels([studio, prodigy], ENGLISH) == {0: GUESSES[True][0], 1: []}
    found = read_answers([studio], ENGLISH, True, TYPES)
    assert take_answers(pool_with_drafts(), found, lambda i: []) == {1: []}
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(ValueError, match=r"empty.jsonl holds no sentence"):
        read_answers([empty], ENGLISH, True, TYPES)


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
    assert labels([path], ENGLISH) == {2: []}
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
    assert labels([prodigy], ENGLISH) == {0: None, 2: None}
    studio = tmp_path / "studio.json"
    task = {"data": {"text": text, "index": 0}, "annotations": [{"was_cancelled": True, "result": []}]}
    studio.write_text(json.dumps([task]))
    assert labels([studio], ENGLISH) == {0: None}
    later = tmp_path / "later.jsonl"
    entities = [{"id": 3, "label": "LOC", "start_offset": 15, "end_offset": 18}]
    later.write_text(json.dumps({"text": text, "entities": entities, "index": 0}))
    assert labels([studio, later], ENGLISH) == {0: [(3, 4, "LOC")]}


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
        ("a.jsonl", {"tokens": [], "spans": 3, "meta": {"index": 2}, "answer": "accept"}, "spans are a list"),
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
