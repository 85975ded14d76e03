"""D-MPNN, D-MPNN with rdkit's descriptors, chemprop and a random forest, side by side on MoleculeNet.

`ZOO_DATA=... PYTHONPATH=$PWD:$PWD/tests python tests/benchmarks/molecules_side_by_side.py --out DIR \
--chemprop /path/to/chemprop [--manifest FILE]`, a night of one core. A run whose result is in DIR is not run
again, so that what was stopped goes on.

For each set one table of unique molecules is written, and for each seed one balanced scaffold split as
chemprop's ``splits.json``; all rows read both. The networks train 30 epochs and are tested with the
checkpoint that was best on the validation molecules: chemprop as its command line has it, ours as the config
of the set has it, 300 wide. Their largest difference is the readout of a molecule from its atoms, the mean in
ours and the sum / 100 (``norm``) in chemprop: ``ours_norm`` is ours with chemprop's. The same functions score
the predictions of all rows. chemprop lives in an environment of its own (``pip install chemprop==2.3.1``);
without ``--chemprop`` its row is left out, and that is said.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.molecules.table import SETS, MoleculeNet
from zoo.engine.run import versions
from zoo.evidence import manifest
from zoo.locks import write_json
from zoo.metrics.properties import Task, averaged, by_task
from zoo.molecules.graph.featurised import prepare

ROOT = Path(__file__).parent.parent.parent
NAMES = ("esol", "freesolv", "bace", "bbbp", "lipophilicity", "tox21")
ROWS = ("ours", "ours_norm", "ours_rdkit", "chemprop", "forest")
EPOCHS, BATCH = 30, 50
SCRIPT = "tests/benchmarks/molecules_side_by_side.py"
Result = dict[str, Any]


def score_name(task: Task) -> str:
    """The score of the table."""
    return "rmse" if task == "regression" else "roc_auc"


def written_table(name: str, folder: Path) -> dict[str, Any]:
    """Write ``table.csv``, the unique molecules of a set; its facts, kept in ``table.json``."""
    facts = folder / "table.json"
    if facts.is_file():
        return dict(json.loads(facts.read_text()))
    data = MoleculeNet(name)  # type: ignore[arg-type]
    data.setup("fit")
    parts = [data.train_set, data.val_set, data.test_set]
    order = np.argsort(np.concatenate([part.index for part in parts]))
    target = np.concatenate([part.target for part in parts])[order]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["smiles", *SETS[name].targets])
        for smiles, row in zip(data.all_smiles, target.tolist(), strict=True):
            writer.writerow([smiles, *("" if np.isnan(v) else repr(v) for v in row)])
    start = time.process_time()
    prepare(data.all_smiles)  # kept on the disk for all rows and seeds
    found = {
        "task": data.task,
        "targets": list(SETS[name].targets),
        "molecules": len(target),
        "descriptors_cpu_s": time.process_time() - start,
    }
    write_json(facts, found)
    return found


def of_table(folder: Path, facts: Mapping[str, Any]) -> list[str]:
    """Flags of ours for the table of a set."""
    return [
        "--data.class_path=datamodules.MoleculeTable",
        f"--data.init_args.table={folder / 'table.csv'}",
        f"--data.init_args.targets={json.dumps(facts['targets'])}",
        f"--data.init_args.task={facts['task']}",
        f"--data.init_args.batch_size={BATCH}",
    ]


def written_split(folder: Path, seed: int, facts: Mapping[str, Any]) -> Path:
    """The balanced scaffold split of a seed as ``splits.json``."""
    from datamodules import MoleculeTable

    path = folder / f"splits_{seed}.json"
    if not path.is_file():
        MoleculeTable(
            str(folder / "table.csv"),
            facts["targets"],
            task=facts["task"],
            split="balanced",
            split_seed=seed,
            save_splits=str(path),
        ).setup("fit")
    return path


def measured(command: Sequence[str], log: Path) -> float:
    """CPU seconds of a command and its children, its output in ``log``.

    Raises:
        RuntimeError: if it fails.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=log.parent, env=environment, stdout=file, stderr=file)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{log} ended with {process.returncode}: {log.read_text()[-600:]}")
    return used.ru_utime + used.ru_stime


def zoo(verb: str, log: Path, *flags: str) -> float:
    """CPU seconds of a verb of ours."""
    script = "import sys, cli; sys.exit(cli.main(sys.argv[1:]))"
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    return measured([sys.executable, "-c", script, verb, *quiet, *flags], log)


def run_ours(row: str, name: str, seed: int, split: Path, facts: Mapping[str, Any], work: Path) -> Result:
    """Train and test a row of ours."""
    table = of_table(split.parent, facts)
    table += ["--data.init_args.split=file", f"--data.init_args.split_file={split}"]
    if row == "forest":
        config, model = "molecules_esol_baseline", [f"--model.init_args.task={facts['task']}"]
        train = []
    else:
        config = f"molecules_{name}"
        steps = EPOCHS * (len(json.loads(split.read_text())[0]["train"]) // BATCH)
        descriptors = "rdkit" if row == "ours_rdkit" else "none"
        model = [f"--model.init_args.descriptors={descriptors}", f"--model.init_args.task={facts['task']}"]
        if row == "ours_norm":
            model += ["--model.init_args.readout=norm"]
        # the bundled network of ESOL is narrower than the others, and than chemprop's
        model += ["--model.init_args.hidden=300", "--model.init_args.ffn_hidden=300"]
        train = [
            f"--model.init_args.lr_scheduler.init_args.total_steps={steps}",
            f"--trainer.max_steps={steps}",
            f"--checkpoint.every_n_train_steps={steps // 3}",
        ]
    shared = [f"--config={config}", *model, *table, f"--trainer.default_root_dir={work}"]
    shared += [f"--seed_everything={seed}"]
    fit = zoo("fit", work / "fit.log", *shared, *train)
    checkpoints = next((work / config).glob("version_*/checkpoints"))
    best = checkpoints / "best.ckpt"
    if not best.is_file():
        (best,) = checkpoints.glob("step*.ckpt")
    test = zoo("test", work / "test.log", *shared, f"--ckpt_path={best}")
    (summary,) = (work / config).glob("version_*/summary_test.json")
    score = json.loads(summary.read_text())["final"][f"test/{score_name(facts['task'])}"]
    return {"score": score, "cpu_s": fit + test}


def run_chemprop(chemprop: Path, seed: int, split: Path, facts: Mapping[str, Any], work: Path) -> Result:
    """Train and test chemprop by its own command line, and score what it predicts."""
    table = split.parent / "table.csv"
    command = [str(chemprop), "train", "-i", str(table), "-s", "smiles"]
    command += ["--target-columns", *facts["targets"], "-t", facts["task"], "--splits-file", str(split)]
    command += [
        "--epochs",
        str(EPOCHS),
        "--num-workers",
        "0",
        "--accelerator",
        "cpu",
        "-o",
        str(work / "out"),
    ]
    command += ["--pytorch-seed", str(seed), "--data-seed", str(seed)]
    cpu = measured(command, work / "chemprop.log")
    (predictions,) = (work / "out").rglob("test_predictions.csv")
    return {"score": scored(predictions, table, split, facts), "cpu_s": cpu}


def scored(predictions: Path, table: Path, split: Path, facts: Mapping[str, Any]) -> float:
    """Our score of a csv of predictions for the test molecules of a split.

    Raises:
        ValueError: unless it predicts each of them once.
    """
    with predictions.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {row["smiles"]: [float(row[name]) for name in facts["targets"]] for row in rows}
    with table.open(newline="") as file:
        known = list(csv.DictReader(file))
    test = [known[i] for i in json.loads(split.read_text())[0]["test"]]
    if len(rows) != len(test) or set(found) != {row["smiles"] for row in test}:
        raise ValueError(
            f"{predictions} has {len(rows)} rows, not one for each of {len(test)} test molecules"
        )
    target = [[float(row[name] or "nan") for name in facts["targets"]] for row in test]
    predicted = np.array([found[row["smiles"]] for row in test])
    return averaged(by_task(facts["task"], predicted, np.array(target)))[score_name(facts["task"])]


def entries(
    results: Sequence[Result], costs: Mapping[str, float], shared: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Manifest entries: mean and deviation of each set and row over the seeds that all asked rows have.

    Args:
        results: of single runs.
        costs: CPU seconds of rdkit's descriptors by set, which are computed once.
        shared: command, versions and date.
    """
    made: list[dict[str, Any]] = []
    for name in NAMES:
        of_set = [r for r in results if r["set"] == name]
        rows = [row for row in ROWS if any(r["row"] == row for r in of_set)]
        have = {row: {r["seed"] for r in of_set if r["row"] == row} for row in rows}
        asked = [have[row] for row in rows if row != "ours_norm"]
        common = set.intersection(*asked) if asked else set()
        if not common:
            continue
        values: list[tuple[str, float, set[int]]] = [
            (f"{name}/seeds", len(common), common),
            (f"{name}/descriptors_cpu_s", costs[name], {0}),
        ]
        for row in rows:
            chosen = [r for r in of_set if r["row"] == row and r["seed"] in common]
            if not chosen:
                continue
            scores, seeds = [r["score"] for r in chosen], {r["seed"] for r in chosen}
            metric = f"{name}/{row}/{chosen[0]['score_name']}"
            values += [
                (f"{metric}/mean", statistics.fmean(scores), seeds),
                (f"{name}/{row}/cpu_s", statistics.fmean(r["cpu_s"] for r in chosen), seeds),
                *((f"{metric}/seed_{r['seed']}", r["score"], {r["seed"]}) for r in chosen),
            ]
            if len(scores) > 1:
                values.append((f"{metric}/sd", statistics.stdev(scores), seeds))
        made += [{"metric": m, "value": v, "seeds": sorted(seeds), **shared} for m, v, seeds in values]
    return made


def release_of(chemprop: Path | None) -> dict[str, str]:
    """chemprop's release, asked of the Python beside its executable."""
    if chemprop is None:
        return {}
    script = (
        "import importlib.metadata as m; print(m.version('chemprop'), m.version('torch'), m.version('rdkit'))"
    )
    done = subprocess.run(
        [str(chemprop.parent / "python"), "-c", script], capture_output=True, text=True, check=True
    )
    names = ("chemprop", "chemprop's torch", "chemprop's rdkit")
    return dict(zip(names, done.stdout.split(), strict=True))


def kept(out: Path) -> list[Result]:
    """The results on the disk."""
    paths = [p for p in sorted(out.glob("*/*/*/result.json")) if p.parent.name in ROWS]
    return [json.loads(path.read_text()) for path in paths]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, required=True, help="folder of tables, splits and results")
    parser.add_argument("--chemprop", type=Path, default=None, help="its executable")
    parser.add_argument("--sets", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--seeds", nargs="+", type=int, default=range(5))
    parser.add_argument("--manifest", type=Path, default=None, help="results file to add the numbers to")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    os.environ["ZOO_CACHE"] = str(out / "cache")
    rows = list(options.rows)
    if options.chemprop is None and "chemprop" in rows:
        print("no --chemprop: its row is left out unless its results are there", flush=True)
        rows.remove("chemprop")
    for name in options.sets:
        facts = written_table(name, out / name)
        for seed in options.seeds:
            split = written_split(out / name, seed, facts)
            for row in rows:
                work = out / name / str(seed) / row
                if (work / "result.json").is_file():
                    continue
                work = work.parent / f"{row}_{os.getpid()}"
                work.mkdir(parents=True)
                if row == "chemprop":
                    found = run_chemprop(options.chemprop.absolute(), seed, split, facts, work)
                else:
                    found = run_ours(row, name, seed, split, facts, work)
                found |= {"set": name, "row": row, "seed": seed, "score_name": score_name(facts["task"])}
                found |= {
                    "versions": versions() | (release_of(options.chemprop) if row == "chemprop" else {})
                }
                write_json(work / "result.json", found)
                work.rename(out / name / str(seed) / row)
                print(f"{name} {seed} {row}: {found['score']:.4f}, {found['cpu_s']:.0f} s of CPU", flush=True)
    if options.manifest is not None:
        results = kept(out)
        known: dict[str, str] = {}
        for result in results:
            known |= result["versions"]
        shared = {
            "command": f"python {SCRIPT} --chemprop chemprop",
            "versions": known,
            "date": time.strftime("%Y-%m-%d"),
        }
        costs = {
            name: json.loads((out / name / "table.json").read_text())["descriptors_cpu_s"]
            for name in {r["set"] for r in results}
        }
        manifest.update(options.manifest, entries(results, costs, shared))
    return 0


if __name__ == "__main__":
    sys.exit(main())
