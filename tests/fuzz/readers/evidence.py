"""What proves a result and is handed on: claims, sweeps, finished runs, manifests, summaries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from fuzz.forked import Reader

from zoo.evidence import manifest
from zoo.evidence.compare.claim import read_claim
from zoo.evidence.compare.runs import KnownRuns, read_summary
from zoo.evidence.sweep.file import read_sweep

CLAIM: dict[str, Any] = {
    "title": "t",
    "config": "digit_classifier_digits",
    "arms": {"a": {}, "b": {"grid": {"model.init_args.width": [4, 8]}}},
    "seeds": [0, 1, 2],
    "predicates": [
        {
            "metric": "val/x",
            "better": "a",
            "worse": "b",
            "direction": "higher",
            "test": "t",
            "least_effect": 0.1,
        }
    ],
    "selection": {"by": [{"metric": "val/x", "direction": "higher"}], "per": "claim", "seeds": [0]},
}
OVER: dict[str, Any] = CLAIM | {
    "over": {"flag": "data.init_args.test_items", "values": [5, 10, "all"], "label": "items"},
    "predicates": [CLAIM["predicates"][0] | {"at": [5, "all"]}],
}
SWEEP: dict[str, Any] = {
    "method": "bayes",
    "metric": {"name": "val/x", "goal": "minimize", "target": 0.5},
    "parameters": {
        "lr": {"min": 0.1, "max": 1.0},
        "n": {"values": [1, 2]},
        "q": {"distribution": "q_uniform"},
    },
    "command": ["zoo", "fit", "--config", "digit_classifier_digits", "${args}"],
}
SWEEP["parameters"]["q"] |= {"min": 0.0, "max": 2.0, "q": 0.5}
RUN = {"seed": 0, "verbs": ["fit"], "metrics": {"val/x": 0.5}, "steps": 5, "seconds": 1.5}


def _text(text: str, name: str) -> Any:
    def write(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def _runs(path: Path) -> None:
    known = KnownRuns(path)
    known.get("mark", ["fit"])
    known.add("other", RUN)


def _manifest(path: Path) -> None:
    entry = dict.fromkeys(manifest.FIELDS, "")
    manifest.read(path)
    manifest.update(path, [entry])


def _summary(path: Path) -> None:
    try:
        read_summary(path.parents[2], "summary.json")
    except RuntimeError as error:  # a sweep goes on with its other trials
        raise ValueError(str(error)) from None


READERS = [
    Reader("claim", _text(yaml.safe_dump(CLAIM), "claim.yaml"), lambda path: void(read_claim(path))),
    Reader(
        "claim over values", _text(yaml.safe_dump(OVER), "claim.yaml"), lambda path: void(read_claim(path))
    ),
    Reader("sweep", _text(yaml.safe_dump(SWEEP), "sweep.yaml"), lambda path: void(read_sweep(path))),
    Reader("finished runs", _text(json.dumps({"mark": RUN}), "runs.json"), _runs),
    Reader(
        "results manifest",
        _text(json.dumps([dict.fromkeys(manifest.FIELDS, "x")]), "results.json"),
        _manifest,
    ),
    Reader(
        "summary of a run", _text(json.dumps({"final": {"x": 1.0}}), "x/version_0/summary.json"), _summary
    ),
    Reader(
        "metrics of a run",
        lambda folder: _text("step,a\n1,0.5\n2,nan\n", "x/version_0/metrics.csv")(
            _text(json.dumps({"final": {}}), "x/version_0/summary.json")(folder).parents[2]
        ),
        _summary,
    ),
]


def void(_: Any) -> None:
    """A range may be as large as its author likes."""
