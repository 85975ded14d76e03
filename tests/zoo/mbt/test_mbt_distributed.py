"""Two processes train what one trains: mixup and augmentation are functions of the seed and the step.

Dropout and stochastic depth are off, since their masks belong to a process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import of_data, of_model, of_trainer
from fakes.clips import write_mp4, write_wav
from interruption import newest_checkpoint
from processes import CLI, environment, largest_difference, rows

import cli

FLAGS = (
    "--config=mbt_tones_sum",
    *of_model(mixup_alpha=0.3, modality_dropout=0.2, width=16, mlp=16),
    *of_data(batch_size=16, pairs=80, test_pairs=33, eval_batch_size=10, image_noise=0.3, audio_snr_db=0),
    *of_trainer(
        accelerator="cpu", max_steps=8, val_check_interval=4, log_every_n_steps=2, enable_progress_bar=False
    ),
    "--checkpoint.every_n_train_steps=8",
)


def newest(root: Path) -> Path:
    return max((root / "mbt_tones_sum").glob("version_*"))


def launched(verb: str, root: Path, *flags: str) -> None:
    """Two processes, started as a user starts them."""
    two = [f"--trainer.default_root_dir={root}", "--config=trainer/ddp", "--trainer.devices=2"]
    done = subprocess.run(
        [sys.executable, str(CLI), verb, *flags, *two],
        env={**environment(), "ZOO_DATA": os.environ.get("ZOO_DATA", "data")},
        cwd=root.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_sound_on_one_process_alone(task: str, tmp_path: Path) -> None:
    """Every second clip has sound, so the second process never sees any: the scores are those of one."""
    rows = ["video,audio,label,split", ",8.wav,x,train"]
    write_wav(tmp_path / "8.wav", 0.5)
    for i in range(8):
        write_mp4(tmp_path / f"{i}.mp4", 0.5, None)
        if i % 2 == 0:
            write_wav(tmp_path / f"{i}.wav", 0.5, 300.0 + 200 * i)
        rows.append(f"{i}.mp4,{'' if i % 2 else f'{i}.wav'},{'xy'[i % 3 == 0]},test")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    sizes = {"width": 16, "depth": 2, "heads": 2, "mlp": 16, "num_classes": 2, "task": task, "patch_size": 8,
             "image_size": 16, "spectrogram_frames": 48, "fusion_layer": 0, "mixup_groups": 2}  # fmt: skip
    options = {"layout": "csv", "root": tmp_path, "seconds": 0.48, "image_size": 16, "eval_batch_size": 4,
               "multi_label": task == "multi_label"}  # fmt: skip
    flags = [
        "--model=zoo.MBT",
        "--data=datamodules.AudioVisual",
        "--trainer.accelerator=cpu",
        "--seed_everything=1",
        "--weights=none",
    ]
    flags += [f"--model.init_args.{k}={v}" for k, v in sizes.items()]
    flags += [f"--data.init_args.{k}={v}" for k, v in options.items()]
    assert cli.main(["test", *flags, f"--trainer.default_root_dir={tmp_path / 'one'}"]) == 0
    launched("test", tmp_path / "two", *flags)
    one, two = (
        json.loads(next((tmp_path / n).rglob("summary_test.json")).read_text())["final"]
        for n in ("one", "two")
    )
    sound = "test/mAP_spectrogram" if task == "multi_label" else "test/acc_spectrogram"
    assert 0 <= one[sound] <= 1
    scores = {k for k in one if k.startswith("test/") and "second" not in k}
    assert {k: two[k] for k in scores} == pytest.approx({k: one[k] for k in scores}, rel=1e-5)


@pytest.mark.slow
def test_two_processes_train_and_score_what_one_does(tmp_path: Path) -> None:
    assert cli.main(["fit", *FLAGS, f"--trainer.default_root_dir={tmp_path / 'one'}"]) == 0
    launched("fit", tmp_path / "two", *FLAGS)
    a, b = (_content(newest(tmp_path / n)) for n in ("one", "two"))
    assert a["global_step"] == b["global_step"] == 8
    distance = largest_difference(a["state_dict"], b["state_dict"])
    print(f"weights differ by {distance:.1e}")
    assert distance <= 2e-6
    moved = a["state_dict"]["network.blocks.rgb.0.qkv.weight"]
    torch.manual_seed(0)
    assert moved.abs().max() > 0.01
    for x, y in zip(rows(newest(tmp_path / "one")), rows(newest(tmp_path / "two")), strict=True):
        for key in x:
            assert (x[key] == "") == (y[key] == ""), key
            if x[key]:
                assert float(y[key]) == pytest.approx(float(x[key]), rel=1e-4, abs=1e-5), key


def _content(folder: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(newest_checkpoint(folder), weights_only=True)
    return saved
