"""Two processes ask what one asks: scores are those of whole batches, whoever computes them.

Dropout is off, since its masks belong to a process; words that become [UNK] are a function of seed and step.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import of_data, of_model, of_trainer
from interruption import newest_checkpoint
from processes import CLI, environment, largest_difference

FLAGS = (
    "--config=ner_grammar",
    *of_model(char_dim=4, char_filters=4, word_dim=8, word_filters=8, decoder_hidden=8, dropout=0.0),
    *of_data(train_sentences=150, val_sentences=33, seed_budget=80, budget=60, unit="words", rounds=3),
    *of_data(seed_updates=12, round_updates=6, eval_batch_size=10, held_out=11),
    *of_trainer(accelerator="cpu", log_every_n_steps=2, enable_progress_bar=False),
)


def launched(root: Path, devices: int, *flags: str) -> dict[str, Any]:
    """The last checkpoint of a run on so many processes."""
    ddp = ["--config=trainer/ddp", f"--trainer.devices={devices}"] if devices > 1 else []
    done = subprocess.run(
        [sys.executable, str(CLI), "fit", *FLAGS, *ddp, *flags, f"--trainer.default_root_dir={root}"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    folder = max((root / "ner_grammar").glob("version_*"))
    content: dict[str, Any] = torch.load(newest_checkpoint(folder), weights_only=True)
    return content


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", [of_model(acquisition="mnlp"), of_model(loss_reduction="sum", acquisition="bald", mc_passes=3)]
)
def test_two_processes_ask_what_one_asks(flags: list[str], tmp_path: Path) -> None:
    rate = "--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.003}}"
    one = launched(tmp_path / "one", 1, *flags, rate)
    two = launched(tmp_path / "two", 2, *flags, rate)
    assert [i for i, _ in one["NER"]["pool"]["rounds"]] == [i for i, _ in two["NER"]["pool"]["rounds"]]
    assert one["NER"]["pool"]["held_out"] == two["NER"]["pool"]["held_out"]
    assert largest_difference(one["state_dict"], two["state_dict"]) < 1e-5
    f1 = [[row["f1"] for row in run["callbacks"]["Rounds"]["rows"]] for run in (one, two)]
    assert f1[0] == pytest.approx(f1[1], abs=1e-6)
