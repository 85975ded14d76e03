"""The side by side with chemprop: what is written for it, how it is scored, that it goes on where it was."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks import molecules_side_by_side as side

FAKE = """#!{python}
import csv, json, pathlib, sys
given = sys.argv[1:]
of = lambda flag: given[given.index(flag) + 1]
assert given[0] == "train" and of("-t") == "regression" and of("--epochs") == "30" and of("-s") == "smiles"
assert of("--pytorch-seed") == of("--data-seed")
out = pathlib.Path(of("-o")) / "model_0"
out.mkdir(parents=True)
rows = list(csv.DictReader(open(of("-i"))))
test = json.load(open(of("--splits-file")))[0]["test"]
with open(out / "test_predictions.csv", "w") as file:
    writer = csv.writer(file)
    writer.writerow(["smiles", of("--target-columns")])
    for i in reversed(test):
        writer.writerow([rows[i]["smiles"], float(rows[i][of("--target-columns")]) + 2])
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side, "prepare", lambda smiles: None)  # ten seconds of rdkit
    monkeypatch.setattr(side, "release_of", lambda chemprop: {"chemprop": "0"})
    monkeypatch.setenv("ZOO_CACHE", os.environ.get("ZOO_CACHE", ""))


def executable(folder: Path) -> Path:
    path = folder / "chemprop"
    path.write_text(FAKE.format(python=sys.executable))
    path.chmod(0o755)
    return path


def test_chemprop_reads_our_table_and_split_and_is_not_run_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"--out={tmp_path / 'out'}", "--sets", "esol", "--rows", "chemprop", "--seeds", "0", "1"]
    manifest, chemprop = tmp_path / "m.json", executable(tmp_path)
    assert side.main([*given, f"--chemprop={chemprop}", f"--manifest={manifest}"]) == 0
    assert capsys.readouterr().out.count("s of CPU") == 2
    found = {e["metric"]: e for e in json.loads(manifest.read_text())}
    assert found["esol/chemprop/rmse/mean"]["value"] == pytest.approx(2.0)
    assert found["esol/chemprop/rmse/sd"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert found["esol/chemprop/rmse/mean"]["seeds"] == [0, 1]
    assert found["esol/seeds"]["value"] == 2
    assert found["esol/chemprop/cpu_s"]["value"] > 0
    assert found["esol/chemprop/rmse/mean"]["versions"]["chemprop"] == "0"
    splits = [json.loads((tmp_path / f"out/esol/splits_{seed}.json").read_text())[0] for seed in (0, 1)]
    for split in splits:  # of one table of unique molecules
        assert sorted(i for part in split.values() for i in part) == list(range(1117))
    assert splits[0] != splits[1]
    chemprop.unlink()
    assert side.main([*given, f"--chemprop={chemprop}"]) == 0
    assert "s of CPU" not in capsys.readouterr().out


def test_without_chemprop_its_row_is_left_out_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert side.main([f"--out={tmp_path}", "--sets", "esol", "--rows", "chemprop", "--seeds", "0"]) == 0
    assert "no --chemprop: its row is left out" in capsys.readouterr().out
    assert not list(tmp_path.glob("esol/0/*"))


def test_a_run_that_fails_says_what_it_wrote_and_leaves_no_result(tmp_path: Path) -> None:
    chemprop = tmp_path / "chemprop"
    chemprop.write_text(f"#!{sys.executable}\nimport sys; sys.exit('it does not know this flag')")
    chemprop.chmod(0o755)
    given = [f"--out={tmp_path / 'out'}", "--sets", "esol", "--rows", "chemprop", "--seeds", "0"]
    with pytest.raises(RuntimeError, match="ended with 1: it does not know this flag"):
        side.main([*given, f"--chemprop={chemprop}"])
    assert side.kept(tmp_path / "out") == []


def test_classes_are_scored_over_the_tasks_with_both_and_no_molecule_may_lack(tmp_path: Path) -> None:
    table, split, predictions = (tmp_path / name for name in ("table.csv", "splits.json", "p.csv"))
    rows = [["C", 0, ""], ["CC", 1, 1], ["CCC", 0, 1], ["CCCC", 1, ""]]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["smiles", "a", "b"], *rows])
    split.write_text(json.dumps([{"train": [], "val": [], "test": [0, 1, 2, 3]}]))
    facts: dict[str, Any] = {"task": "classification", "targets": ["a", "b"]}

    def scored(*lines: list[Any]) -> float:
        with predictions.open("w", newline="") as file:
            csv.writer(file).writerows([["smiles", "a", "b", "more"], *lines])
        return side.scored(predictions, table, split, facts)

    whole = [["CCCC", 0.3, 0.1, 0], ["CCC", 0.4, 0.1, 0], ["C", 0.1, 0.1, 0], ["CC", 0.9, 0.1, 0]]
    assert scored(*whole) == pytest.approx(0.75)  # b has one class alone
    for lines in (whole[:3], [*whole, whole[0]], [*whole[:3], ["N", 0.1, 0.1, 0]]):
        with pytest.raises(ValueError, match="not one for each of 4 test molecules"):
            scored(*lines)


def test_rows_are_compared_over_the_seeds_that_all_have() -> None:
    def result(row: str, seed: int, score: float) -> dict[str, Any]:
        return {"set": "esol", "row": row, "seed": seed, "score": score, "cpu_s": 3.0, "score_name": "rmse"}

    results = [result("ours", s, s) for s in range(3)] + [result("chemprop", s, 1) for s in (1, 2, 4)]
    results += [result("ours_norm", 2, 0.5)]
    found = {e["metric"]: e for e in side.entries(results, {"esol": 7.0}, {"command": "c"})}
    assert found["esol/ours/rmse/mean"]["value"] == 1.5
    assert found["esol/ours/rmse/mean"]["seeds"] == [1, 2]
    assert found["esol/ours_norm/rmse/mean"]["seeds"] == [2]
    assert "esol/ours_norm/rmse/sd" not in found
    assert found["esol/descriptors_cpu_s"]["value"] == 7.0
    assert side.entries(results[:1] + results[5:6], {"esol": 7.0}, {}) == []


@pytest.mark.slow  # two trainings from the command line
def test_our_rows_train_on_the_split_and_are_tested_with_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side, "EPOCHS", 3)
    given = [f"--out={tmp_path}", "--sets", "esol", "--seeds", "0", "--rows", "ours_norm", "forest"]
    assert side.main(given) == 0
    scores = {r["row"]: r["score"] for r in side.kept(tmp_path)}
    assert 0.7 < scores["forest"] < 1.1
    assert 0.7 < scores["ours_norm"] < 2.1
