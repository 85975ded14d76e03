"""Every shipped config, as it lies on disk: a method added with its configs adds no line here.

A config that needs no files follows its golden curve, ``golden/<config>.json``: the flags of a short run and
the rows of its metrics.csv. Flags after the name take the place of those in the file:

    python tests/test_configs.py golden [CONFIG [--KEY=VALUE ...]]

writes it anew, or all of them; review the diff. Any other config takes a few steps on a tiny twin of its
data, which a module of ``fakes/`` makes:

* ``TWINS``: class path of the data -> ``twin(root, config)``, which writes the official layout under ``root``
  and returns the flags that a run on a CPU needs beside ``root``. Data in another's ``source`` count as they
  do alone: the config that the twin gets has them under ``data``.
* ``WITHOUT_FILES``: class path -> whether data with these ``init_args`` need none.

``golden/parameters.json`` has the number of parameters, as the papers and their code have it: one number, or
one for each part of the model, with the flags that it holds for where data decide a size.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import re
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import build, run, words
from lightning.pytorch import LightningModule

from zoo.engine.metrics_csv import read_metrics
from zoo.hub.catalog import config_folder, find_config

GOLDEN = Path(__file__).parent / "golden"
PARAMETERS: dict[str, Any] = json.loads((GOLDEN / "parameters.json").read_text())
CONFIGS = {p.stem: yaml.safe_load(p.read_text()) for p in sorted(config_folder().glob("*.yaml"))}
FAKES = [importlib.import_module(f"fakes.{p.stem}") for p in sorted((GOLDEN.parent / "fakes").glob("*.py"))]
TWINS, WITHOUT_FILES = (
    {k: v for fake in FAKES for k, v in getattr(fake, table, {}).items()}
    for table in ("TWINS", "WITHOUT_FILES")
)
STEPS = 12
GOLDEN_RUN = {
    "trainer.max_steps": STEPS,
    "trainer.log_every_n_steps": 3,
    "trainer.val_check_interval": STEPS,
    "previews.count": 0,
}
TWIN_RUN = {
    "trainer.max_steps": 3,
    "trainer.max_epochs": -1,
    "trainer.log_every_n_steps": 1,
    "trainer.val_check_interval": 3,
    "trainer.check_val_every_n_epoch": None,
    "trainer.limit_val_batches": 1,
    "checkpoint.every_n_train_steps": 3,
    "previews.count": 0,
}
SHARE = re.compile(r"(accuracy|f1|auc|mAP|top1|iou|precision|recall)$")


def named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@cache
def files_of(name: str) -> tuple[str, str]:
    """Class path and place in the config of the data that read files; two empty words without such."""
    section, place = CONFIGS[name].get("data"), "data"
    while isinstance(section, dict):
        path, arguments = section["class_path"], section.get("init_args", {})
        if "root" in inspect.signature(named(path)).parameters or path in TWINS:
            return ("", "") if WITHOUT_FILES.get(path, lambda _: False)(arguments) else (path, place)
        section, place = arguments.get("source"), f"{place}.init_args.source"
    return "", ""


def verb_of(name: str) -> str:
    """What a config is for: an evaluation has no training step, an extraction of latents predicts alone."""
    model = named(CONFIGS[name]["model"]["class_path"])
    steps = {"fit": "training_step", "test": "test_step", "predict": "predict_step"}
    return next(v for v, s in steps.items() if getattr(model, s) is not getattr(LightningModule, s))


FULL_SIZE = [n for n in CONFIGS if files_of(n)[0]]
EMBEDDED = [n for n in CONFIGS if n not in FULL_SIZE]


# --- configs that need no files ---------------------------------------------------------------------------


def curve(name: str, root: Path, flags: dict[str, Any]) -> list[dict[str, float]]:
    """Rows of metrics.csv of a short run; an evaluation has one, without the seconds that it took."""
    verb = verb_of(name)
    own = GOLDEN_RUN if verb == "fit" else {}
    rows = read_metrics(run(verb, name, root, *words({**own, **flags})) / "metrics.csv")
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


@pytest.mark.parametrize("name", EMBEDDED)
def test_first_steps_follow_the_golden_curve(name: str, tmp_path: Path) -> None:
    path = GOLDEN / f"{name}.json"
    assert path.is_file(), f"no {path.name}: python tests/test_configs.py golden {name} [--KEY=VALUE ...]"
    golden = json.loads(path.read_text())
    rows = curve(name, tmp_path, golden["flags"])
    assert [row["step"] for row in rows] == [row["step"] for row in golden["rows"]]
    for row, expected in zip(rows, golden["rows"], strict=True):
        # float32 sums differ between machines and thread counts; a changed method differs by far more
        assert row == pytest.approx(expected, rel=2e-3, abs=1e-5)


# --- configs of full size ---------------------------------------------------------------------------------


def leaves(value: Any, place: str = "") -> Iterator[str]:
    """What may choose a way through the code: words and switches with their keys, numbers by their keys."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, f"{place}.{key}")
    else:
        yield f"{place}={value}" if isinstance(value, str | bool | None) else place


def covering() -> set[str]:
    """A few configs: per kind of model and data, some have and some lack each leaf that any of them has."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for name in FULL_SIZE:
        kinds.setdefault((CONFIGS[name]["model"]["class_path"], files_of(name)[0]), []).append(name)
    chosen: set[str] = set()
    for names in kinds.values():
        having = {n: {*leaves({k: CONFIGS[n].get(k) for k in ("model", "data", "trainer")})} for n in names}
        every = set.union(*having.values())
        having = {n: own | {f"no {leaf}" for leaf in every - own} for n, own in having.items()}
        left = set.union(*having.values())
        while left:
            best = max(names, key=lambda n: len(having[n] & left))
            chosen.add(best)
            left -= having[best]
    return chosen


COVERING = covering()


TRAINED = [n for n in FULL_SIZE if verb_of(n) == "fit"]


@pytest.mark.parametrize("name", sorted({*TRAINED, *PARAMETERS}))
def test_parameters_are_the_published_ones(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))  # real files decide sizes of vocabularies
    stated = PARAMETERS.get(name)
    parts = stated if isinstance(stated, dict) else {}
    built = build(name, tmp_path, *words(parts.get("flags", {})))
    sizes = {n: p.numel() for n, p in built.model.named_parameters()}
    total = sum(sizes.values())
    assert stated, (
        f"golden/parameters.json lacks {name}: are the {total:_} parameters of its model the paper's?"
    )
    expected = {k: v for k, v in parts.items() if k != "flags"} or {"": stated}
    assert {k: sum(v for n, v in sizes.items() if n.startswith(k)) for k in expected} == expected
    assert total == sum(expected.values())


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in COVERING else pytest.mark.slow) for n in FULL_SIZE]
)
@pytest.mark.filterwarnings("ignore:.*have no file and are skipped")
def test_steps_on_a_twin_of_the_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    (path, place), config, verb = files_of(name), CONFIGS[name], verb_of(name)
    assert path in TWINS, f"{path} of {name} reads files, and no module of tests/fakes has it among its TWINS"
    data = config
    for key in place.split("."):
        data = data[key]
    flags = TWINS[path](tmp_path / "data", {**config, "data": {"init_args": {}, **data}})
    if "root" in inspect.signature(named(path)).parameters:
        flags[f"{place}.init_args.root"] = tmp_path / "data"
    flags = {**(TWIN_RUN if verb == "fit" else {}), **flags}
    folder = run(verb, name, tmp_path, *words(flags))
    if verb == "predict":  # it logs nothing
        return
    found = json.loads((folder / ("summary.json" if verb == "fit" else f"summary_{verb}.json")).read_text())
    final = found["final"]
    if verb == "fit":
        assert found["steps"] == flags["trainer.max_steps"]
        assert any(k.startswith("train/") for k in final)
        assert config.get("checkpoint", {}).get("monitor", "train/") in {*final, "train/"}
    assert final
    assert all(math.isfinite(v) for row in read_metrics(folder / "metrics.csv") for v in row.values())
    assert all(0 <= v <= 1 for k, v in final.items() if SHARE.search(k))


# --- the files themselves ---------------------------------------------------------------------------------


def test_every_golden_file_has_its_config() -> None:
    assert {p.stem for p in GOLDEN.glob("*.json")} - {"parameters"} <= {*EMBEDDED}
    assert {*PARAMETERS} <= {*CONFIGS}


@pytest.mark.parametrize("name", CONFIGS)
def test_header_tells_paper_and_hardware(name: str) -> None:
    text = find_config(name).read_text()
    header = " ".join(line for line in text.splitlines() if line.startswith("#"))
    assert "Hardware: " in header
    assert name in EMBEDDED or re.search("Paper: |[Bb]aseline", header)
    assert max(map(len, text.splitlines())) <= 130


def write_golden(arguments: list[str]) -> None:
    """``[CONFIG [--KEY=VALUE ...]]``: the golden file of one config, or of all, with the flags it had."""
    given = [word.removeprefix("--").partition("=") for word in arguments[1:]]
    for name in arguments[:1] or EMBEDDED:
        path = GOLDEN / f"{name}.json"
        flags = {key: yaml.safe_load(value) for key, _, value in given}
        if not given and path.is_file():
            flags = json.loads(path.read_text())["flags"]
        with tempfile.TemporaryDirectory() as folder:
            content = {"flags": flags, "rows": curve(name, Path(folder), flags)}
        path.write_text(golden_text(content))


def golden_text(content: dict[str, Any]) -> str:
    """JSON with a line for the flags and for each row of metrics.csv."""
    rows = ",\n".join(json.dumps(row) for row in content["rows"])
    return f'{{"flags": {json.dumps(content["flags"])}, "rows": [\n{rows}\n]}}\n'


if __name__ == "__main__":
    if sys.argv[1:2] != ["golden"]:
        sys.exit("python tests/test_configs.py golden [CONFIG [--KEY=VALUE ...]]")
    write_golden(sys.argv[2:])
