"""People in the place of the oracle: the run ends with questions and goes on with their answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import of_data, of_model, run
from fakes.named_entities import own_folder
from interruption import newest_checkpoint

import cli
import zoo
from datamodules.text.conll import Sentence

SMALL = of_model(char_dim=4, char_filters=4, word_dim=8, word_filters=8, decoder_hidden=8)
UPDATES = of_data(seed_updates=6, round_updates=4, budget=4, batch_size=4)


def fit(root: Path, own: Path, *flags: str) -> Path:
    return run("fit", "ner_own", root, *SMALL, *UPDATES, f"--data.init_args.root={own}", *flags)


def answered(folder: Path, number: int, gold: dict[int, Sentence], skip: int | None = None) -> Path:
    """The questions of a round with the right labels, in Prodigy's words."""
    lines = []
    for line in (folder / "queries" / f"round_{number:02d}" / "prodigy.jsonl").read_text().splitlines():
        task = json.loads(line)
        index = task["meta"]["index"]
        tokens = task["tokens"]
        task["spans"] = [
            {"start": tokens[a]["start"], "end": tokens[b - 1]["end"], "label": kind}
            for a, b, kind in gold[index].spans or ()
        ]
        task["answer"] = "ignore" if index == skip else "accept"
        lines.append(json.dumps(task))
    path = folder.parent / f"answers_{number}.jsonl"
    path.write_text("\n".join(lines))
    return path


def pool_of(folder: Path) -> dict[str, Any]:
    return torch.load(newest_checkpoint(folder), weights_only=True)["NER"]["pool"]


def asked(folder: Path, number: int) -> list[int]:
    text = (folder / "queries" / f"round_{number:02d}" / "doccano.jsonl").read_text()
    return [json.loads(line)["index"] for line in text.splitlines()]


def test_questions_answers_skips_and_corrections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = own_folder(tmp_path / "own", labelled=12, pool=30)
    gold = {12 + i: sentence for i, sentence in enumerate(rest)}
    folder = fit(tmp_path, tmp_path / "own")
    first = asked(folder, 1)
    assert len(first) == 4
    assert min(first) >= 12  # of the pool
    assert pool_of(folder)["waiting"] == first
    assert "4 sentences wait for labels" in capsys.readouterr().out

    assert fit(tmp_path, tmp_path / "own", "--ckpt_path=last") == folder  # without answers nothing goes on
    assert "4 sentences wait for labels: give their files" in capsys.readouterr().out
    assert pool_of(folder)["round"] == 0

    questions = folder / "queries" / "round_01" / "doccano.jsonl"
    again = ["fit", "--config=ner_own", *SMALL, *UPDATES, f"--data.init_args.root={tmp_path / 'own'}"]
    again += [f"--trainer.default_root_dir={tmp_path}", f"--data.init_args.labels=[{questions}]"]
    assert cli.main([*again, "--ckpt_path=last"]) == 1
    said = capsys.readouterr().err
    assert "all 4 sentences came back exactly as the model tagged them" in said
    assert said.count("\n") == 1
    assert pool_of(folder)["round"] == 0

    answers = answered(folder, 1, gold, skip=first[0])

    fresh = ["fit", "--config=ner_own", *SMALL, *UPDATES, f"--data.init_args.root={tmp_path / 'own'}"]
    fresh += [f"--data.init_args.labels=[{answers}]", f"--trainer.default_root_dir={tmp_path / 'fresh'}"]
    assert cli.main(fresh) == 1
    assert "labels answers the questions of a run: add --ckpt_path last" in capsys.readouterr().err
    fit(tmp_path, tmp_path / "own", "--ckpt_path=last", f"--data.init_args.labels=[{answers}]")
    assert "3 of 4 sentences come back labelled, 1 skipped, 0 not answered" in capsys.readouterr().out
    state = pool_of(folder)
    assert state["round"] == 1
    assert state["skipped"] == [first[0]]
    assert dict(state["rounds"])[first[1]] == 1
    assert first[0] not in asked(folder, 2)

    correction = tmp_path / "corrected.jsonl"
    words = gold[first[1]].words
    correction.write_text(
        json.dumps({"text": " ".join(words), "label": [[0, len(words[0]), "ORG"]], "index": first[1]})
    )
    second = answered(folder, 2, gold)
    flag = f"--data.init_args.labels=[{answers}, {second}, {correction}]"
    fit(tmp_path, tmp_path / "own", "--ckpt_path=last", flag)
    state = pool_of(folder)
    assert dict(state["answers"])[first[1]] == [[0, 1, "ORG"]]
    assert "1 sentences that were labelled before have new labels" in capsys.readouterr().out
    audit = [json.loads(line) for line in (folder / "asked.jsonl").read_text().splitlines()]
    assert [a["status"] for a in audit[:4]] == ["skipped", "labelled", "labelled", "labelled"]
    assert {a["asked_after_round"] for a in audit} == {0, 1, 2}
    drafts = dict(state["drafts"])
    assert "as_drafted" not in audit[0]  # skipped
    assert all(
        a["as_drafted"] is (dict(state["answers"])[a["index"]] == drafts[a["index"]]) for a in audit[1:8]
    )


def test_own_sentences_are_tagged_by_the_command_and_by_a_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_folder(tmp_path / "own", labelled=12, pool=10)
    folder = fit(tmp_path, tmp_path / "own")
    weights = newest_checkpoint(folder)
    (tmp_path / "text.txt").write_text("Anna Kosaberg went to Ely .\n\n \t\nIt rained .\n")
    out = run(
        "predict",
        "ner_own",
        tmp_path / "out",
        f"--weights={weights}",
        f"--data.init_args.predict={tmp_path / 'text.txt'}",
    )
    records = [json.loads(line) for line in (out / "predictions" / "tagged.jsonl").read_text().splitlines()]
    assert [r["tokens"] for r in records] == [
        ["Anna", "Kosaberg", "went", "to", "Ely", "."],
        ["It", "rained", "."],
    ]
    assert [r["index"] for r in records] == [0, 3]  # rows of the file
    assert f"2 of 4 lines of {tmp_path / 'text.txt'} are empty and left out" in capsys.readouterr().out
    model = zoo.load(weights)
    (alone,) = model.tag("Anna Kosaberg went to Ely .")  # type: ignore[operator]
    for given in ([None], [["It", ""]]):
        with pytest.raises(ValueError, match="a sentence is a text, or a list of its words"):
            model.tag(given)  # type: ignore[operator]
    found = model.tag(["Anna Kosaberg went to Ely .", "", ["It", "rained", "."]])  # type: ignore[operator]
    assert alone == found[0]
    assert [[list(s) for s in spans] for spans in (found[0], found[2])] == [
        [[s["start"], s["end"], s["label"]] for s in r["spans"]] for r in records
    ]
    assert found[1] == []
    assert "<mark" in (out / "predictions" / "tagged.html").read_text()
