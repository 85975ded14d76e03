"""A killed run of molecules goes on to the same bits; two processes train what one trains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import interruption
import pytest
import torch
from commands import run
from covering import covering
from fakes.molecule_tables import MOLECULES
from interruption import Killed, newest_checkpoint, run_differences
from processes import CLI, environment, largest_difference

CONFIG = "molecules_esol"
SETTINGS = (
    "--model.init_args.hidden=16", "--model.init_args.ffn_hidden=16", "--data.init_args.split=random",
    "--data.init_args.batch_size=200", "--trainer.max_epochs=-1", "--trainer.max_steps=10",
    "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu",
    "--checkpoint.every_n_train_steps=3", "--checkpoint.keep=-1",
)  # fmt: skip
ARMS = {
    "both": [
        "--model.init_args.descriptors=ecfp",
        "--data.init_args.calibration=0.1",
        "--model.init_args.members=2",
    ],
    "gin": [
        "--model.init_args.descriptors=none",
        "--model.init_args.backbone=gin",
        "--model.init_args.head=mve",
    ],
    "dmpnn": ["--model.init_args.descriptors=none"],
}


def fit(root: Path, *flags: str) -> Path:
    run("fit", CONFIG, root, *SETTINGS, *flags)
    return root / CONFIG / "version_0"


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "step"), covering([("both", 3), ("both", 6), ("gin", 9)], []))
def test_a_killed_run_goes_on_to_the_same_bits(arm: str, step: int, tmp_path: Path) -> None:
    """Dropout, the one-cycle schedule and conformal widths have had their say."""
    whole = fit(tmp_path / "whole", *ARMS[arm])
    with pytest.raises(Killed), interruption.dying("saved", step):
        fit(tmp_path, *ARMS[arm])
    folder = fit(tmp_path, *ARMS[arm], "--ckpt_path=last")
    assert run_differences(whole, folder) == []
    state = torch.load(newest_checkpoint(folder), weights_only=True)["state_dict"]
    assert bool((state["half_widths"] > 0).any()) == (arm == "both")


@pytest.mark.slow
def test_a_killed_baseline_goes_on(tmp_path: Path) -> None:
    flags = [
        "--model.init_args.descriptors=ecfp",
        "--model.init_args.trees=5",
        "--trainer.enable_progress_bar=false",
    ]
    folders = []
    for root in (tmp_path / "a", tmp_path / "b"):
        if root.name == "b":
            with pytest.raises(Killed), interruption.dying("saved", 1):
                run("fit", "molecules_esol_baseline", root, *flags)
        run("fit", "molecules_esol_baseline", root, *flags, *["--ckpt_path=last"] * (root.name == "b"))
        folders.append(root / "molecules_esol_baseline" / "version_0")
    a, b = (torch.load(newest_checkpoint(f), weights_only=True)["state_dict"] for f in folders)
    assert largest_difference(a, b) == 0


@pytest.mark.slow
@pytest.mark.parametrize("arm", [*ARMS, "missing labels"])
def test_two_processes_train_what_one_trains(arm: str, tmp_path: Path) -> None:
    """Without dropout, whose draws are each process's own, and with SGD: Adam makes whole steps of the
    rounding noise of a bias before a batch norm. Labels are missing more often in one half of each batch."""
    flags = list(ARMS.get(arm, ARMS["dmpnn"]))
    if arm == "missing labels":
        table = tmp_path / "labels.csv"
        labels = [f"{i % 2},{'' if i % 3 else (i // 2) % 2}" for i in range(len(MOLECULES))]
        rows = [f"{smiles},{label}" for smiles, label in zip(MOLECULES, labels, strict=True)]
        table.write_text("\n".join(["smiles,a,b", *rows]) + "\n")
        flags += ["--data.class_path=datamodules.MoleculeTable", f"--data.init_args.table={table}"]
        flags += ["--data.init_args.task=classification", "--data.init_args.targets=[a, b]"]
        flags += ["--data.init_args.batch_size=14", "--checkpoint.monitor=val/loss"]
    flags += ["--model.init_args.dropout=0.0", "--model.init_args.optimizer=torch.optim.SGD"]
    rate = 0.2 if arm == "missing labels" else 0.02
    flags += [f"--model.init_args.optimizer.init_args.lr={rate}", "--model.init_args.lr_scheduler=null"]
    one = fit(tmp_path / "one", *flags)
    command = [sys.executable, str(CLI), "fit", f"--config={CONFIG}", *SETTINGS, *flags]
    command += [f"--trainer.default_root_dir={tmp_path / 'two'}"]
    command += ["--config=trainer/ddp", "--trainer.devices=2"]
    output: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 550, "check": False}
    done = subprocess.run(command, env=environment(), cwd=tmp_path, **output)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    two = tmp_path / "two" / CONFIG / "version_0"
    a, b = (torch.load(newest_checkpoint(f), weights_only=True) for f in (one, two))
    assert a["global_step"] == b["global_step"] == 10
    widths = [x["state_dict"].pop("half_widths") for x in (a, b)]  # in units of a small deviation
    assert torch.allclose(*widths, rtol=1e-3)
    distance = largest_difference(a["state_dict"], b["state_dict"])
    early = torch.load(two / "checkpoints/step=00000003.ckpt", weights_only=True)["state_dict"]
    name = "network.members.0.ffn.0.weight"
    moved = float((early[name] - b["state_dict"][name]).abs().max())
    print(f"{arm}: {distance:.1e} of {moved:.1e}")
    assert distance < 1e-5 < 1e-3 < moved
